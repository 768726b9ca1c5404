"""Processes that kill themselves at a named step, as SIGKILL from outside would, but at an exact instruction."""

import os
import signal
from collections.abc import Callable

from pipeline import Config, Pipeline
from pipeline.telemetry import Probe, Step

KILLED = -signal.SIGKILL


def die_at(step: Step, times: int = 1) -> Probe:
    """A probe that kills the process when it takes ``step`` for the ``times``-th time."""
    left = times

    def probe(taken: Step) -> None:
        nonlocal left
        if taken is step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return probe


def in_child(config: Config, probe: Probe, work: Callable[[Pipeline], object]) -> int:
    """Do ``work`` with a pipeline of its own in a forked child; its exit code, negative for a signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Pipeline(config, probe) as pipeline:
                work(pipeline)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
