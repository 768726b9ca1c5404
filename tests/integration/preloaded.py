"""The program ``pipeline`` without its half second of imports: each command is a fork of a process that has made them.

Such a command is a process of its own all the same: it has its own environment, streams, signals and exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from pipeline.cli import main

__all__ = ["run"]

ROOT: Final = Path(__file__).parents[2]
MOST_BYTES: Final = 1_000_000
NUMBER: Final = struct.Struct("<i")


def run(arguments: Sequence[str], environment: Mapping[str, str], seconds: float) -> tuple[int, str, str]:
    """Run a command; its exit code as `subprocess` gives it, and what it wrote on stdout and stderr.

    Raises:
        TimeoutError: it took longer, and was killed.
    """
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb", buffering=0) as news,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        order = json.dumps([list(arguments), dict(environment)]).encode()
        try:
            socket.send_fds(_source(), [order], [out.fileno(), err.fileno(), writing])
        finally:
            os.close(writing)
        (pid,) = NUMBER.unpack(news.read(NUMBER.size))
        if not select.select([news], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{arguments} takes longer than {seconds} seconds")
        (code,) = NUMBER.unpack(news.read(NUMBER.size))
        return code, _text(out.fileno()), _text(err.fileno())


def _text(file: int) -> str:
    with os.fdopen(os.dup(file), encoding="utf-8") as text:
        text.seek(0)
        return text.read()


@cache
def _source() -> socket.socket:
    """Where commands are ordered. One order is one message; the process ends when nobody can order any more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        words = [sys.executable, "-m", __name__, str(theirs.fileno())]
        process = subprocess.Popen(
            words, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


# --- in the process that has imported everything


def _serve(orders: socket.socket) -> None:
    while True:
        order, files, _, _ = socket.recv_fds(orders, MOST_BYTES, 3)
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            _carry_out(*json.loads(order), *files)
        for file in files:
            os.close(file)
        while _reap(os.WNOHANG):
            pass


def _reap(options: int) -> int:
    try:
        return os.waitpid(-1, options)[0]
    except ChildProcessError:
        return 0


def _carry_out(arguments: list[str], environment: dict[str, str], out: int, err: int, news: int) -> NoReturn:
    """Fork once more, and tell who the child is and how it has ended."""
    pid = os.fork()
    if pid == 0:
        os.close(news)
        os.dup2(out, sys.stdout.fileno())
        os.dup2(err, sys.stderr.fileno())
        os.closerange(3, max(out, err, news) + 1)
        os.environ.clear()
        os.environ.update(environment)
        main(arguments)
    with os.fdopen(news, "wb", buffering=0) as told:
        told.write(NUMBER.pack(pid))
        told.write(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
