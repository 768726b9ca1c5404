"""What is told at the end: numbers, and the first violation with all that is known about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg

from scripts.chaos_run.check import LAWS, Verdict, Violation
from scripts.chaos_run.evidence import traces
from scripts.chaos_run.history import History, Record

__all__ = ["around", "describe", "explain", "summarize"]

NEAR_SECONDS: Final = 5.0
MOST_FAULTS: Final = 25
MOST_EVENTS: Final = 200
FEW_EVENTS: Final = 8


def summarize(history: History, verdict: Verdict, faults: Mapping[str, int], **more: Any) -> dict[str, Any]:
    """The result as one JSON object."""
    laws = Counter(violation.law for violation in verdict.violations)
    return {
        "ok": not verdict.violations,
        **more,
        "faults": sum(faults.values()),
        "faults_by_kind": dict(sorted(faults.items())),
        "events": len(history),
        "events_by_kind": dict(sorted(Counter(record.kind for record in history).items())),
        "events_by_way": dict(sorted(Counter(record.via for record in history).items())),
        "durable_events": sum(any(one.disk for one in record.acceptances) for record in history),
        "poison_events": sum(record.poison is not None for record in history),
        "applied": verdict.applied,
        "dead_letters": verdict.dead,
        "refused": verdict.refused,
        "came_back_too_late": verdict.late,
        "unanswered_and_not_applied": verdict.uncertain,
        "lost_within_the_aof_window": verdict.forgotten,
        "of_them_when_killed": verdict.when_killed,
        "lost_by_celery_before_ingress": len(verdict.in_transport),
        "violations": {law: laws[law] for law in LAWS},
    }


def explain(
    violation: Violation,
    history: History,
    faults: Sequence[Mapping[str, Any]],
    connection: psycopg.Connection[Any],
) -> dict[str, Any]:
    """A violation with its events' journals, ledger entries and dead letters, and the faults around them."""
    events: list[dict[str, Any]] = [
        {
            "id": record.id,
            "journal": history.lines.get(record.id, []),
            "in_postgres": _found(connection, history, record),
        }
        for record in violation.records[-MOST_EVENTS:]
    ]
    shown = [events[place] for place in _telling(events)]
    records = [history.records[event["id"]] for event in shown]
    times = [record.at for record in records] + [one.answered for record in records for one in record.acceptances]
    return {
        "law": violation.law,
        "text": violation.text,
        "events_concerned": len(violation.records),
        "events": shown,
        "faults_nearby": [fault for fault in faults if _near(fault, times)][:MOST_FAULTS],
    }


def around(record: Record, faults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An event that was lost on its way to us, and what was going on when it was published."""
    times = [one.answered for one in record.acceptances]
    return {"id": record.id, "faults": [fault["fault"] for fault in faults if _near(fault, times)]}


def describe(result: Mapping[str, Any]) -> Iterable[str]:
    """The result as lines of text."""
    yield f"seed {result['seed']}, {result['seconds']:.0f} s, {result['shards']} shards"
    yield f"{result['faults']} faults"
    yield from (f"  {count:>6}  {kind}" for kind, count in result["faults_by_kind"].items())
    yield f"{result['events']:,} events ({result['poison_events']} of them poison, {result['durable_events']} on disk)"
    yield from (f"  {count:>6}  {kind}" for kind, count in result["events_by_kind"].items())
    yield f"applied {result['applied']:,}, dead letters {result['dead_letters']}, refused {result['refused']}"
    yield f"unanswered and not applied: {result['unanswered_and_not_applied']}"
    yield (
        f"lost within the AOF window: {result['lost_within_the_aof_window']}, "
        f"{result['of_them_when_killed']} of them by a kill alone"
    )
    yield f"lost by Celery before they reached us: {result['lost_by_celery_before_ingress']}"
    for odd in result.get("odd", ()):
        yield f"odd: {odd}"
    if result["ok"]:
        yield "Beyond that nothing is lost, nothing is doubled, nothing is out of order."
        return
    counts = ", ".join(f"{law} {count}" for law, count in result["violations"].items() if count)
    yield f"VIOLATED: {counts or result.get('error')}"
    if violation := result.get("violation"):
        yield from ("The first violation:", json.dumps(violation, indent=1, ensure_ascii=False, default=str))


def _found(connection: psycopg.Connection[Any], history: History, record: Record) -> dict[str, Any]:
    names = [record.id, *(ours for ours, theirs in history.known_as.items() if theirs == record.id)]
    return {name: traces(connection, name) for name in names}


def _telling(events: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """Of the events of a row, in the order in which they were written: those that overtook, or else the last ones."""
    batches = [
        [(batch["shard"], batch["seq"]) for found in event["in_postgres"].values() for batch in found["ledger"]]
        for event in events
    ]
    inverted = {
        place
        for earlier, later in zip(range(len(events)), range(1, len(events)), strict=False)
        if batches[earlier] and batches[later] and min(batches[earlier]) > min(batches[later])
        for place in (earlier, later)
    }
    return sorted(inverted)[:FEW_EVENTS] or range(max(0, len(events) - FEW_EVENTS), len(events))


def _near(fault: Mapping[str, Any], times: Sequence[float]) -> bool:
    if "t0" not in fault:
        return False
    return any(fault["t0"] - NEAR_SECONDS <= time <= fault["t1"] + NEAR_SECONDS for time in times)
