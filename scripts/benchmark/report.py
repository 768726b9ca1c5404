"""What a run has found as tables and as a picture, for a terminal and for the documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pipeline.bench.measures import of
from pipeline.bench.workload import UPSERTS
from scripts.benchmark.flat import Drain
from scripts.benchmark.goals import Line
from scripts.benchmark.latency import Latency
from scripts.benchmark.picture import Bar, Panel, draw
from scripts.benchmark.result import Result

__all__ = ["Table", "flat_table", "goal_table", "latency_table", "markdown", "picture", "tables"]

DRAIN: Final = "drain"

WAYS: Final = {
    DRAIN: "this pipeline, from queue to commit",
    "drain of delay()": "this pipeline, events from apply_event.delay()",
    "stock task per row": "a stock Celery task per row",
    "celery-batches": "celery-batches 0.11",
    "upsert per write": "one upsert per write, in the app",
    "executemany": "executemany, 5,000 rows in a transaction",
    "COPY": "straight COPY, the limit",
}

SINGLES: Final = (
    "SET", "write", "apply_event.delay", "HGETALL", "read, hit", "read_many, hits, per row", "read, miss",
    "read, miss with a pending change",
)  # fmt: skip

PROCESSES: Final = ("Python", "Redis", "PostgreSQL")

TARGET: Final = 1_000_000
_SHORT: Final = 0.1
_WHOLE: Final = 100
"""From here on three digits are whole numbers."""


class Table(NamedTuple):
    """``name`` is how a document asks for it."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(result: Result) -> list[Table]:
    """Everything that a run has found."""
    return [
        Table("calls", "One call", ("", "µs, median", "fastest round", "slowest round", "per second"), _calls(result)),
        Table("rows", "Rows per second, from queue to commit", ("", *result.workloads.values()), _rows(result)),
        Table("cpu", "CPU-µs of one event", ("", *PROCESSES, "together"), _cpu(result)),
        Table(
            "scale",
            f"Cores that are busy at {TARGET:,} events/s",
            ("", "CPU-µs of an event", "cores"),
            _scale(result),
        ),
        latency_table(result.latency),
        flat_table(result.flat),
        goal_table(result.lines),
    ]


def markdown(table: Table) -> str:
    """The table in a document; numbers flush right."""
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows))


def picture(result: Result) -> str:
    """Bars for every workload, and for one call; an SVG document."""
    panels = [Panel(f"{title}: rows per second", list(_bars(result, name))) for name, title in result.workloads.items()]
    calls = [
        Bar(name, result.measured[name].seconds, f"{_micro(result.measured[name].seconds)} µs", _kind(name))
        for name in ("SET", "write", "apply_event.delay", of("upsert per write", UPSERTS))
        if name in result.measured
    ]
    panels.append(Panel("One write of the application: microseconds, less is better", calls))
    return draw("This pipeline beside what people use instead", panels)


def _kind(name: str) -> str:
    return {"write": "ours", DRAIN: "ours", "SET": "limit", "COPY": "limit"}.get(name, "")


def _bars(result: Result, workload: str) -> Iterator[Bar]:
    for way, label in WAYS.items():
        if (measured := result.measured.get(of(way, workload))) is not None:
            rate = 1 / measured.seconds
            yield Bar(label, rate, f"{rate:,.0f}", _kind(way))


def _calls(result: Result) -> list[list[str]]:
    rows = []
    for name in (*SINGLES, *(of("write_many", workload) for workload in result.workloads)):
        if (measured := result.measured.get(name)) is not None:
            numbers = map(_micro, (measured.seconds, *measured.spread))
            rows.append([name, *numbers, f"{1 / measured.seconds:,.0f}"])
    return rows


def _rows(result: Result) -> list[list[str]]:
    return [[label, *(_rate(result, of(way, name)) for name in result.workloads)] for way, label in WAYS.items()]


def _rate(result: Result, name: str) -> str:
    measured = result.measured.get(name)
    return "-" if measured is None else f"{1 / measured.seconds:,.0f}"


def _cpu(result: Result) -> list[list[str]]:
    ways = ("write_many", *WAYS)
    names = [of(way, workload) for way in ways for workload in result.workloads]
    return [_costs(name, result.measured[name].cpu) for name in names if name in result.measured]


def _costs(name: str, cpu: dict[str, float]) -> list[str]:
    each = [_micro(cpu[who]) if who in cpu else "-" for who in PROCESSES]
    return [name, *each, _micro(sum(cpu.values()))]


def _scale(result: Result) -> list[list[str]]:
    """A core does a million CPU-µs a second: what an event takes is how many cores a million of them keep busy."""
    writing, draining = (result.measured[of(way, UPSERTS)].cpu for way in ("write_many", DRAIN))
    parts = {
        "Python, in the applications": writing["Python"],
        "Redis, accepting": writing["Redis"],
        "Redis, claiming and acknowledging": draining["Redis"],
        "Python, in the flush workers": draining["Python"],
        "PostgreSQL": draining["PostgreSQL"],
    }
    return [[name, _micro(seconds), f"{seconds * TARGET:,.0f}"] for name, seconds in parts.items()]


def latency_table(found: Sequence[Latency]) -> Table:
    """From write to commit, at every load."""
    rows = [
        [
            "as many as are taken" if one.asked is None else f"{one.asked:,.0f}",
            *(f"{number:,}" for number in (round(one.per_second), one.events, one.batches)),
            *(_milli(seconds) for seconds in (one.p50, one.p99, one.longest)),
        ]
        for one in found
    ]
    columns = ("events/s", "accepted/s", "events", "batches", "p50, ms", "p99, ms", "longest, ms")
    return Table("latency", "From write to commit", columns, rows)


def flat_table(drains: Sequence[Drain]) -> Table:
    """What must not grow with the backlog."""
    rows = [
        [
            f"{one.events:,}",
            *(_micro(seconds) for seconds in (one.write_seconds, one.seconds, one.cpu_seconds)),
            f"{one.redis_bytes:,.0f}",
            *(f"{memory / 1e6:,.0f}" for memory in (one.memory_before, one.memory_peak)),
            _milli(one.claim_cpu_seconds) if one.claim_cpu_seconds else "-",
            f"{one.slowest.name}: {_milli(one.slowest.seconds)}, {_milli(one.slowest.longest)}",
        ]
        for one in drains
    ]
    columns = (
        "pending", "write_many, µs", "drain, µs", "its CPU, µs", "Redis, bytes", "idle, MB", "at most, MB",
        "a claim: CPU of Redis, ms", "slowest script by the clock: nine in ten, longest, ms",
    )  # fmt: skip
    return Table("flat", "By backlog: an event, and the process that drains it", columns, rows)


def goal_table(lines: Sequence[Line]) -> Table:
    """What was to be reached."""
    return Table("goals", "Goals", ("goal", "measured", "rounds", "to reach", ""), [_goal(line) for line in lines])


def _goal(line: Line) -> list[str]:
    goal = f"{'≤' if line.at_most else '≥'} {_number(line.goal)}{_unit(line)}"
    if line.value is None:
        return [line.name, "not measured", line.why, goal, ""]
    spread = line.why if line.low is None or line.high is None else f"{_number(line.low)} … {_number(line.high)}"
    return [line.name, f"{_number(line.value)}{_unit(line)}", spread, goal, _verdict(line)]


def _verdict(line: Line) -> str:
    if line.ok is None:
        return "not judged: a quick run"
    if not line.ok:
        return "missed"
    exactly = line.value is not None and (line.value <= line.goal if line.at_most else line.value >= line.goal)
    return "reached" if exactly else "within 15 %"


def _unit(line: Line) -> str:
    return line.unit if line.unit in {"x", ""} else f" {line.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"


def _milli(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}" if seconds < _SHORT else f"{seconds * 1e3:,.0f}"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}"
