"""All that a run has found, as ``--json`` prints it and as the documents are made of."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pipeline.bench.clock import Measured
from scripts.benchmark.flat import Drain, Folding, Poison
from scripts.benchmark.goals import Line
from scripts.benchmark.latency import Latency

__all__ = ["Result"]


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
    flat: list[Drain]
    folding: Folding
    poison: Poison
    lines: list[Line]
