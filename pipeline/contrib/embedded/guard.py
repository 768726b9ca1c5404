"""Ends the servers of a process that is no more. Run by its path as a child process; needs only the standard library.

It reads orders from its standard input, one JSON array a line, and answers each with an empty line:

    ["watch", pid, signal]   when the input ends: send this signal to this process, and SIGKILL if it is not obeyed
    ["forget", pid]          no longer
    ["remove", path]         when the input ends, and all processes are gone: delete this directory
    ["leave", path]          no longer

The input ends when its owner closes it or dies, in whatever way: the kernel closes a pipe also after SIGKILL. This is
why there is no atexit hook, no signal handler and no PR_SET_PDEATHSIG here: the first two do not survive SIGKILL, and
the last is tied to the *thread* that started the server, is Linux only, and cannot remove a directory.
A process forked from the owner holds the pipe open too: the servers then live as long as the last of the family.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.02


def main() -> None:
    """Take orders until the owner is gone, then clean up."""
    processes: dict[int, int] = {}
    paths: set[str] = set()
    for line in sys.stdin:
        match json.loads(line):
            case ["watch", int(pid), int(signum)]:
                processes[pid] = signum
            case ["forget", int(pid)]:
                processes.pop(pid, None)
            case ["remove", str(path)]:
                paths.add(path)
            case ["leave", str(path)]:
                paths.discard(path)
            case order:
                raise ValueError(order)
        print(flush=True)
    end(processes)
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def end(processes: dict[int, int]) -> None:
    """Send each process its signal, and SIGKILL after the grace time."""
    for pid, signum in processes.items():
        send(pid, signum)
        send(pid, signal.SIGCONT)  # a stopped process does not obey
    deadline = time.monotonic() + GRACE_SECONDS
    while alive(processes) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for pid in alive(processes):
        send(pid, signal.SIGKILL)


def alive(pids: Iterable[int]) -> list[int]:
    """Those that can still be signalled."""
    return [pid for pid in pids if send(pid, 0)]


def send(pid: int, signum: int) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
