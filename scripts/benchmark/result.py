"""All that a run has found, as ``--json`` prints it and as the documents are made of."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipeline.bench.clock import Measured
from scripts.benchmark.goals import Line

__all__ = ["Latency", "Result"]


class Latency(msgspec.Struct, frozen=True):
    """Seconds from a write to its commit, at a load."""

    load: str
    events_per_second: float
    p50: float
    p99: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """``sizes``: how much was done in a round; ``measured``: name → seconds of one operation; ``workloads``: titles."""

    date: str
    machine: str
    versions: Mapping[str, str]
    sizes: Mapping[str, int]
    workloads: Mapping[str, str]
    measured: Mapping[str, Measured]
    missing: Mapping[str, str]
    latency: list[Latency]
    lines: list[Line]

    @property
    def ok(self) -> bool:
        """Whether no goal was missed; what was not measured was not missed."""
        return all(line.ok is not False for line in self.lines)
