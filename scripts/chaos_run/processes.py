"""The processes under test: Celery workers, beat and producers, started and killed any number of times."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGQUIT, SIGTERM
from typing import Any, Final, NamedTuple

import psutil

from pipeline.contrib.embedded.process import Guard, ServerProcess

__all__ = ["Clock", "Place", "Process", "Producers", "beat", "worker"]

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = Path(sys.executable).parent
CLOCK_HOOK: Final = Path(__file__).parent / "clock"
STOP_SECONDS: Final = 20.0


class Place(NamedTuple):
    """Where a process runs."""

    environment: Mapping[str, str]
    directory: Path
    guard: Guard


class Clock:
    """The wall clock of a process, which can be made to jump; see ``clock/sitecustomize.py``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.jump_to(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process go by this clock."""
        places = [str(CLOCK_HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"CHAOS_CLOCK": str(self._path), "PYTHONPATH": os.pathsep.join(places)}

    def jump_to(self, offset_seconds: float) -> None:
        """Let it be that much ahead."""
        mode = "r+b" if self._path.exists() else "wb"
        with self._path.open(mode) as file:
            file.write(struct.pack("<d", offset_seconds))


class Process:
    """A process that is started again and again with the same command. Not thread-safe."""

    def __init__(self, name: str, words: Sequence[str], place: Place) -> None:
        self.name: Final = name
        self.clock: Final = Clock(place.directory / f"{name}.clock")
        self.log: Final = place.directory / f"{name}.log"
        self._words = words
        self._environment = {**place.environment, **self.clock.environment}
        self._process = ServerProcess(name, self.log, place.guard)
        self._wanted = False

    @property
    def died(self) -> bool:
        """Whether it ended without having been told to."""
        return self._wanted and not self._process.running

    @property
    def children(self) -> list[int]:
        """Its child processes: of a worker, the pool."""
        try:
            return [child.pid for child in psutil.Process(self._process.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def start(self, words: Sequence[str] | None = None) -> None:
        """Start it; does not wait until it is ready."""
        self._wanted = True
        self._process.start(
            words or self._words,
            directory=ROOT,
            environment=self._environment,
            last_signal=SIGQUIT,
            ready=lambda: True,
            timeout=1.0,
        )

    def kill(self) -> None:
        """SIGKILL to it and its children."""
        self._wanted = False
        self._process.kill()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, and kill it if it does not in time."""
        self._wanted = False
        self._process.stop(SIGTERM, seconds)


def worker(name: str, app: str, place: Place) -> Process:
    """``celery worker`` with two processes."""
    words = [
        str(PROGRAMS / "celery"),
        "-A",
        app,
        "worker",
        "-l",
        "warning",
        "-n",
        f"{name}@chaos",
        "--concurrency",
        "2",
    ]
    return Process(name, words, place)


def beat(app: str, place: Place) -> Process:
    """``celery beat``."""
    schedule = f"--schedule={place.directory / 'schedule'}"
    words = [str(PROGRAMS / "celery"), "-A", app, "beat", "-l", "warning", schedule, "--pidfile="]
    return Process("beat", words, place)


class Producers:
    """Several producers. One that was killed comes back with a new name and a new journal."""

    def __init__(self, count: int, seed: str, rate: float, place: Place) -> None:
        self.journals: Final = place.directory / "journals"
        self.journals.mkdir()
        self._seed = seed
        self._rate = rate
        self._lives = [0] * count
        self.processes: Final = [Process(f"producer{number}", [], place) for number in range(count)]

    def start(self, number: int) -> None:
        """Start one, in a new life."""
        name = f"p{number}.{self._lives[number]}"
        self._lives[number] += 1
        options: dict[str, Any] = {
            "name": name,
            "seed": self._seed,
            "journal": str(self.journals / f"{name}.jsonl"),
            "rate": self._rate,
        }
        module = "scripts.chaos_run.producer"
        self.processes[number].start([sys.executable, "-m", module, json.dumps(options)])

    @property
    def paths(self) -> list[Path]:
        """All journals, each producer's lives in order."""
        return sorted(self.journals.glob("*.jsonl"), key=lambda path: tuple(map(int, path.stem[1:].split("."))))


def kill(pid: int) -> None:
    """SIGKILL to one process alone."""
    os.kill(pid, SIGKILL)
