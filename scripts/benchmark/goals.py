"""The numbers to reach (DESIGN.md, section 8), and whether a run has reached them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from pipeline.bench.clock import Measured, ratio
from pipeline.bench.measures import of
from pipeline.bench.workload import UPSERTS
from scripts.benchmark.flat import Drain, Folding, Poison
from scripts.benchmark.latency import Latency

__all__ = ["GOALS", "TOLERANCE", "Goal", "Line", "judge", "of_flat", "of_latency", "of_ratios"]

TOLERANCE: Final = 1.15
"""A goal is failed when it is missed by more than 15 %: these machines are noisy."""


class Goal(NamedTuple):
    """A number to reach. ``at_most``: less is better, else more is."""

    name: str
    goal: float
    at_most: bool
    unit: str = "x"


GOALS: Final[Mapping[str, Goal]] = {
    "write": Goal("write() against a bare SET", 1.8, at_most=True),
    "delay": Goal("write() is faster than apply_event.delay()", 3.5, at_most=False),
    "many": Goal("write_many is faster, per event, than delay()", 40, at_most=False),
    "stock": Goal("drain is faster than a stock Celery task per row", 100, at_most=False),
    "batches": Goal("drain is faster than celery-batches", 100, at_most=False),
    "copy": Goal("drain of wide rows against straight COPY", 50, at_most=False, unit="%"),
    "cost": Goal("cost per event, largest backlog against smallest", 1.2, at_most=True),
    "memory": Goal("memory of a worker, largest backlog", 150, at_most=True, unit="MB"),
    "bytes": Goal("Redis memory per pending event, overlay included", 900, at_most=True, unit="bytes"),
    "rows": Goal("rows written per event, YCSB-A zipfian updates", 0.25, at_most=True, unit=""),
    "savepoints": Goal("savepoints more for one poison event", 25, at_most=True, unit=""),
    "transactions": Goal("transactions for one poison event", 1, at_most=True, unit=""),
    "latency": Goal("write to commit at 1,000 events/s, p99, beyond the flush interval", 250, at_most=True, unit="ms"),
    "hit": Goal("read(), hit, against a bare HGETALL", 1.3, at_most=True),
    "script": Goal("longest script in Redis", 5, at_most=True, unit="ms"),
    "ingress": Goal("drain of apply_event.delay() is faster than a stock task per row", 20, at_most=False),
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and what a run says of it. ``value`` is ``None`` if it was not measured, and then ``why`` says why.

    Otherwise ``low`` and ``high`` are the least and the greatest of the rounds, or ``why`` says of what it is.
    ``ok`` is ``None`` if it is not judged by this run.
    """

    name: str
    goal: float
    at_most: bool
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""
    ok: bool | None = None


def judge(goal: Goal, value: float | None, spread: tuple[float, float] | None = None, why: str = "") -> Line:
    """Whether ``value``, the median of rounds that lie within ``spread``, reaches the goal within the tolerance."""
    low, high = spread or (None, None)
    ok = None
    if value is not None:
        ok = value <= goal.goal * TOLERANCE if goal.at_most else value >= goal.goal / TOLERANCE
    return Line(**goal._asdict(), value=value, low=low, high=high, why=why, ok=ok)


def of_latency(found: Sequence[Latency], flush_interval_seconds: float) -> dict[str, Line]:
    """How much longer than the flush interval all but one in a hundred events take at most."""
    beyond = [1000 * (one.p99 - flush_interval_seconds) for one in found if one.asked == _STEADY]
    return {"latency": judge(GOALS["latency"], max(beyond))} if beyond else {}


def of_flat(drains: Sequence[Drain], folded: Folding, poisoned: Poison) -> dict[str, Line]:
    """What must not grow with the backlog; ``drains`` go from the smallest to the largest."""
    smallest, largest = drains[0], drains[-1]
    values = {
        "cost": largest.seconds / smallest.seconds,
        "memory": largest.memory_peak / 1e6,
        "bytes": max(one.redis_bytes for one in drains),
        "rows": folded.rows_per_event,
        "savepoints": poisoned.savepoints,
        "transactions": poisoned.transactions,
        "script": 1000 * max(one.claim_cpu_seconds for one in drains),
    }
    notes = {
        "cost": f"{largest.events:,} against {smallest.events:,}",
        "memory": f"{largest.events:,} pending",
        "rows": f"{folded.events:,} of {folded.keys:,} rows",
        "savepoints": f"in {poisoned.events:,}",
        "transactions": f"in {poisoned.events:,}",
        "script": "what Redis works at a claim; the table by backlog has the clock's time",
    }
    return {name: judge(GOALS[name], value, why=notes.get(name, "")) for name, value in values.items()}


_STEADY: Final = 1000.0
"""Events per second at which the latency is judged."""

_RATIOS: Final[Mapping[str, tuple[str, str, float]]] = {
    "write": ("write", "SET", 1),
    "delay": ("apply_event.delay", "write", 1),
    "many": ("apply_event.delay", of("write_many", UPSERTS), 1),
    "stock": (of("stock task per row", UPSERTS), of("drain", UPSERTS), 1),
    "batches": (of("celery-batches", UPSERTS), of("drain", UPSERTS), 1),
    "copy": ("COPY: flights", "drain: flights", 100),
    "hit": ("read, hit", "HGETALL", 1),
    "ingress": (of("stock task per row", UPSERTS), of("drain of delay()", UPSERTS), 1),
}
"""Goal → what it divides by what, and how much one is in its unit."""


def of_ratios(found: Mapping[str, Measured], missing: Mapping[str, str]) -> dict[str, Line]:
    """The lines that are ratios of two measurements; ``missing``: measurement → why there is none."""
    lines = {}
    for name, (above, below, factor) in _RATIOS.items():
        why = missing.get(above) or missing.get(below) or ""
        if why:
            lines[name] = judge(GOALS[name], None, why=why)
        else:
            value, low, high = (factor * number for number in ratio(found[above], found[below]))
            lines[name] = judge(GOALS[name], value, (low, high))
    return lines
