"""The judgement of ``pipeline doctor`` over plain facts."""

from typing import Any

import msgspec
import pytest

from pipeline.core.health import (
    BrokerFacts,
    BufferFacts,
    Facts,
    Finding,
    Lane,
    Level,
    StoreFacts,
    TableFacts,
    diagnose,
)
from pipeline.errors import BufferUnavailable, StoreUnavailable

BUFFER = BufferFacts(
    version="7.2.4",
    role="master",
    policy="noeviction",
    append_only=True,
    append_fsync="everysec",
    last_write_ok=True,
    used_memory=100,
    max_memory=1000,
    system_memory=10_000,
    evicted=0,
    topology_problem=None,
    script_problem=None,
)
STORE = StoreFacts(
    version=180_001,
    standby=False,
    fsync=True,
    full_page_writes=True,
    missing_migrations=(),
    missing_rights=(),
    tables=(TableFacts(name="page"),),
)
LANE = Lane(
    shard=3,
    pending=0,
    oldest_age=None,
    failures=0,
    error=None,
    dead_letters=0,
    rechecking=False,
    store_gaps=0,
    parked=0,
    paused={},
)
SOUND = Facts(
    buffer=BUFFER,
    broker=BrokerFacts(waiting_control=1, waiting_ingress=0),
    store=STORE,
    lanes=[LANE],
    flush_interval_seconds=1.0,
    max_pending=100,
)
replace: Any = msgspec.structs.replace


def worst(facts: Facts) -> Finding:
    """The one finding that is not ok."""
    (found,) = (finding for finding in diagnose(facts) if finding.level is not Level.OK)
    return found


def test_nothing_is_wrong_with_a_sound_pipeline_and_nothing_is_to_be_done() -> None:
    findings = diagnose(SOUND)
    assert {(finding.level, finding.advice) for finding in findings} == {(Level.OK, None)}
    assert [finding.check for finding in findings] == [
        "redis", "eviction", "append-only file", "memory", "topology", "scripts", "broker",
        "postgres", "durability", "schema", "grants", "table page", "lanes", "dead letters",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fact", "check", "level"),
    [
        ({"version": "6.0.16"}, "redis", "problem"),
        ({"role": "slave"}, "redis", "problem"),
        ({"policy": "allkeys-lru"}, "eviction", "problem"),
        ({"policy": None}, "eviction", "warning"),
        ({"append_only": False}, "append-only file", "problem"),
        ({"last_write_ok": False}, "append-only file", "problem"),
        ({"append_fsync": "no"}, "append-only file", "warning"),
        ({"used_memory": 800}, "memory", "warning"),
        ({"used_memory": 950}, "memory", "problem"),
        ({"max_memory": 0, "used_memory": 9500}, "memory", "problem"),
        ({"topology_problem": "it has 4 shards"}, "topology", "problem"),
        ({"script_problem": "NOPERM"}, "scripts", "problem"),
    ],
)
def test_what_is_wrong_with_redis_is_told_with_what_to_do(fact: dict[str, Any], check: str, level: str) -> None:
    found = worst(replace(SOUND, buffer=replace(BUFFER, **fact)))
    assert (found.check, found.level) == (check, level)
    assert found.advice


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-ttl"])
def test_a_policy_that_cannot_evict_an_event_is_fine(policy: str) -> None:
    assert all(finding.level is Level.OK for finding in diagnose(replace(SOUND, buffer=replace(BUFFER, policy=policy))))


@pytest.mark.parametrize(
    ("fact", "check", "level"),
    [
        ({"version": 140_010}, "postgres", "problem"),
        ({"standby": True}, "postgres", "problem"),
        ({"fsync": False}, "durability", "problem"),
        ({"full_page_writes": False}, "durability", "problem"),
        ({"missing_migrations": ["0002_next"]}, "schema", "problem"),
        ({"missing_rights": ["INSERT on pipeline.batch"]}, "grants", "problem"),
        ({"tables": [TableFacts(name="page", problem="there is no table page")]}, "table page", "problem"),
        ({"tables": [TableFacts(name="page", missing_rights=["UPDATE"])]}, "table page", "problem"),
        ({"tables": [TableFacts(name="page", keyed=False)]}, "table page", "warning"),
    ],
)
def test_what_is_wrong_with_postgres_is_told_with_what_to_do(fact: dict[str, Any], check: str, level: str) -> None:
    found = worst(replace(SOUND, store=replace(STORE, **fact)))
    assert (found.check, found.level) == (check, level)
    assert found.advice


@pytest.mark.parametrize(
    ("fact", "check", "level"),
    [
        ({"store_gaps": 1}, "shard 3", "problem"),
        ({"rechecking": True}, "shard 3", "warning"),
        ({"pending": 5, "oldest_age": 9.0, "failures": 1, "error": "disk full"}, "shard 3", "warning"),
        ({"pending": 5, "oldest_age": 900.0, "failures": 3, "error": "disk full"}, "shard 3", "problem"),
        ({"pending": 5, "oldest_age": 900.0, "parked": 5, "paused": {"page": "it is gone"}}, "shard 3", "problem"),
        ({"pending": 5, "oldest_age": 31.0}, "shard 3", "problem"),
        ({"pending": 80, "oldest_age": 1.0}, "shard 3", "warning"),
        ({"dead_letters": 2}, "dead letters", "warning"),
    ],
)
def test_what_is_wrong_with_a_shard_is_told_once_with_what_to_do(fact: dict[str, Any], check: str, level: str) -> None:
    found = worst(replace(SOUND, lanes=[replace(LANE, **fact)]))
    assert (found.check, found.level) == (check, level)
    assert found.advice


def test_events_that_wait_less_than_ten_intervals_are_no_reason_to_worry() -> None:
    waiting = replace(LANE, pending=1, oldest_age=500.0)
    assert all(
        finding.level is Level.OK for finding in diagnose(replace(SOUND, lanes=[waiting], flush_interval_seconds=60.0))
    )


def test_ticks_that_pile_up_are_told_and_those_of_another_kind_of_broker_cannot_be_counted() -> None:
    found = worst(replace(SOUND, broker=BrokerFacts(waiting_control=31, waiting_ingress=0)))
    assert (found.check, found.level) == ("broker", Level.PROBLEM)
    unknown = BrokerFacts(waiting_control=None, waiting_ingress=None)
    assert all(finding.level is Level.OK for finding in diagnose(replace(SOUND, broker=unknown)))


def test_what_cannot_be_asked_because_a_side_is_away_is_left_out() -> None:
    away = BufferUnavailable("connection refused")
    findings = diagnose(replace(SOUND, buffer=away, broker=away, store=StoreUnavailable("starting up"), lanes=away))
    assert [(finding.check, finding.level) for finding in findings] == [
        ("redis", "problem"), ("broker", "problem"), ("postgres", "problem"),
    ]  # fmt: skip
