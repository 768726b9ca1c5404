"""What was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

__all__ = ["machine"]

_CPUINFO: Final = Path("/proc/cpuinfo")


def machine() -> str:
    """Processor, cores, system and Python of this machine, in one line; the servers may be elsewhere."""
    cores = os.cpu_count() or 1
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"{_processor()}, {cores} core{'s' if cores > 1 else ''}, {system}, Python {platform.python_version()}"


def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()
