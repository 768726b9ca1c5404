"""Time and CPU time of an operation, and rounds of measurements that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

__all__ = ["Measure", "Measured", "Meter", "Sample", "ratio", "side_by_side", "take_turns", "timed"]


class Sample(msgspec.Struct, frozen=True):
    """One operation: seconds, and the seconds of CPU that each of the processes took that had a part in it."""

    seconds: float
    cpu: dict[str, float] = {}


class Measured(msgspec.Struct, frozen=True):
    """What a measurement came to: a sample for every round."""

    samples: list[Sample]

    @property
    def seconds(self) -> float:
        """Of one operation, the median of all rounds."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Of the fastest and of the slowest round."""
        every = [sample.seconds for sample in self.samples]
        return min(every), max(every)

    @property
    def cpu(self) -> dict[str, float]:
        """By process, the medians of all rounds."""
        names = {name: None for sample in self.samples for name in sample.cpu}
        return {name: statistics.median(sample.cpu.get(name, 0.0) for sample in self.samples) for name in names}


Measure = Callable[[], Mapping[str, Sample]]
"""Measures one thing, or several that are compared with each other."""

Meter = Callable[[], Mapping[str, float]]
"""Seconds of CPU that were used until now, by process."""

_TURNS: Final = 20


def timed(operations: int, work: Callable[[], object], meter: Meter) -> Sample:
    """``work`` consists of so many operations; the sample is of one of them."""
    before, started = meter(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    after = meter()
    return Sample(seconds / operations, {name: (after[name] - used) / operations for name, used in before.items()})


def side_by_side(operations: Mapping[str, tuple[Callable[[Any], object], Sequence[Any]]]) -> dict[str, Sample]:
    """One call of each operation, which are called in turns, some of their arguments each time.

    The median of all calls: one that is disturbed by somebody else says nothing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for turn in range(_TURNS):
        for name, (operation, arguments) in operations.items():
            seconds[name] += _each(operation, arguments[turn::_TURNS])
    return {name: Sample(statistics.median(found)) for name, found in seconds.items()}


def _each(operation: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    clock = time.perf_counter
    seconds = []
    for argument in arguments:
        started = clock()
        operation(argument)
        seconds.append(clock() - started)
    return seconds


def take_turns(measures: Mapping[str, Measure], rounds: int, say: Callable[[str], None]) -> dict[str, Measured]:
    """Every measurement once, then all of them again: what disturbs a round disturbs all that are compared."""
    samples: dict[str, list[Sample]] = {}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            say(f"round {number} of {rounds}: {name}")
            for what, sample in measure().items():
                samples.setdefault(what, []).append(sample)
    return {name: Measured(found) for name, found in samples.items()}


def ratio(above: Measured, below: Measured) -> tuple[float, float, float]:
    """How many times as long ``above`` takes: the median, the least and the greatest of the rounds."""
    every = [one.seconds / other.seconds for one, other in zip(above.samples, below.samples, strict=True)]
    return statistics.median(every), min(every), max(every)
