"""A wall clock that can be made to jump: Python imports this module at the start of a process, before anything else.

The file named by CHAOS_CLOCK holds the seconds that `time.time` is off, as a little-endian double. What C code asks
(``datetime.now``) does not jump, nor does ``time.monotonic``, as with a real jump.
"""

import mmap
import os
import struct
import time
from pathlib import Path

_DOUBLE = struct.Struct("<d")


def _install(path: Path) -> None:
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), _DOUBLE.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns

    def now() -> float:
        return real() + float(_DOUBLE.unpack(offset[: _DOUBLE.size])[0])

    def now_ns() -> int:
        return real_ns() + int(_DOUBLE.unpack(offset[: _DOUBLE.size])[0] * 1e9)

    time.time, time.time_ns = now, now_ns


if clock := os.environ.get("CHAOS_CLOCK"):
    _install(Path(clock))
