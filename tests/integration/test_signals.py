"""A signal handler that raises, in the middle of a command to Redis."""

import gc
import itertools
import subprocess
import sys
from types import FrameType
from typing import Any

import pytest

from pipeline.buffer import wire
from pipeline.config import Config
from pipeline.driving import run
from tests.acceptance.nodes import ROOT

# The alarm comes while C code copies 20 MB; behind them stands the number at which hiredis notices it.
SCRIPT = """
import signal
from pipeline import Config
from pipeline.buffer.redis import connect

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

connection = connect(Config()).connection_pool.make_connection()
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    while True:
        connection.pack_command("EVALSHA", *[b"x" * 100] * 200_000, 1)
except Alarm:
    print("alarmed")
"""


def test_a_signal_handler_that_raises_while_a_command_is_packed_does_not_crash_the_process() -> None:
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "alarmed\n"), done.stderr


class Interrupt(BaseException):
    """What a signal handler raises: Ctrl-C, or a time limit of Celery."""


def interrupting(instruction: int) -> Any:
    """A trace function that raises before the instruction of that number in the module of lines."""
    count = itertools.count()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename != wire.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(count) == instruction:
            raise Interrupt
        return trace

    return trace


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::ResourceWarning")
def test_wherever_a_signal_handler_raises_nobody_gets_anothers_answer(redis_url: str) -> None:
    lines = wire.BlockingWire(Config(redis_url=redis_url))

    async def echoed(*words: str) -> list[Any]:
        async with lines.line() as line:
            return await line.send([("ECHO", word) for word in words])

    before = sys.gettrace()
    interrupted = True
    for instruction in itertools.count():
        sys.settrace(interrupting(instruction))
        try:
            assert run(echoed("a", "b")) == [b"a", b"b"]
            interrupted = False
        except Interrupt:
            pass
        finally:
            sys.settrace(before)
        assert run(echoed("mine")) == [b"mine"]
        if not interrupted:
            break
    assert instruction > 100
    run(lines.close())
    gc.collect()  # a connection that was interrupted between two hands is closed by this
