"""An environment of its own for what cannot be installed beside us: made at the first use, and kept."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["NotInstalled", "python_with"]

_SECONDS: Final = 300.0
_PIP: Final = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class NotInstalled(Exception):
    """It could not be made; the message says why."""


def python_with(requirements: Path, directory: Path) -> Path:
    """The interpreter of the environment in ``directory``, which has exactly ``requirements`` installed.

    Raises:
        NotInstalled: pip could not install them.
    """
    python = directory / "bin" / "python"
    stamp = directory / "installed"
    wanted = hashlib.sha256(requirements.read_bytes() + str(directory).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    try:
        _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(directory))
        # by our own pip: it takes as long to install another one
        _run(sys.executable, *_PIP, f"--python={python}", "install", "--requirement", str(requirements))
    except BaseException:  # also Ctrl-C: half of it is of no use
        shutil.rmtree(directory, ignore_errors=True)
        raise
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled((errors or done.stderr.splitlines() or ["no reason was given"])[-1])
