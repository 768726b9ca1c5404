"""What could be wrong with a pipeline, and what to do about it: a judgement over plain facts.

`pipeline.wiring.Pipeline.doctor` gathers the facts. Where something could not be asked, the error is the fact, and what
depends on it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.errors import PipelineError

__all__ = [
    "BrokerFacts",
    "BufferFacts",
    "Facts",
    "Finding",
    "Lane",
    "Level",
    "StoreFacts",
    "TableFacts",
    "diagnose",
]


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # works, and should be looked at
    PROBLEM = "problem"  # does not work, or may lose data


class Finding(msgspec.Struct, frozen=True):
    """One thing that was checked; ``advice`` says what to do, ``None`` if nothing is to be done."""

    check: str
    level: Level
    message: str
    advice: str | None = None


# --- facts


class BufferFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis says of itself. Sizes are in bytes; ``None``: it does not tell."""

    version: str
    role: str
    policy: str | None
    append_only: bool
    append_fsync: str | None
    last_write_ok: bool
    used_memory: int
    max_memory: int
    system_memory: int
    evicted: int
    topology_problem: str | None
    script_problem: str | None


class BrokerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker holds; ``None``: only its own clients can see that.

    ``unmoved_seconds``: for so long nobody took a message of a Celery client although there were some.
    """

    waiting_control: int | None
    waiting_ingress: int | None
    unmoved_seconds: float | None = None


class TableFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A table of ``PIPELINE_TABLES``. ``problem`` says why it cannot be written at all."""

    name: str
    problem: str | None = None
    keyed: bool = True
    missing_rights: Sequence[str] = ()


class StoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What PostgreSQL says of itself. ``version`` is as in ``server_version_num``."""

    version: int
    standby: bool
    fsync: bool
    full_page_writes: bool
    missing_migrations: Sequence[str]
    missing_rights: Sequence[str]
    tables: Sequence[TableFacts]


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One shard; see `pipeline.status.ShardStatus`."""

    shard: int
    pending: int
    oldest_age: float | None
    failures: int
    error: str | None
    dead_letters: int
    rechecking: bool
    store_gaps: int
    parked: int
    paused: dict[str, str]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is judged. An error stands for what could not be asked."""

    buffer: BufferFacts | PipelineError
    broker: BrokerFacts | PipelineError
    store: StoreFacts | PipelineError
    lanes: Sequence[Lane] | PipelineError
    flush_interval_seconds: float
    max_pending: int


# --- judgement

_OLDEST_REDIS: Final = (6, 2)
_OLDEST_POSTGRES: Final = 150_000
_MEMORY_TIGHT: Final = 0.8
_MEMORY_OUT: Final = 0.95
_QUEUE_TIGHT: Final = 0.8
_FAILURES: Final = 3
_PATIENCE_SECONDS: Final = 30.0
_TICKS: Final = 30
"""Control messages that may wait while every worker is busy; a tick a second adds up quickly when there is none."""


def diagnose(facts: Facts) -> list[Finding]:
    """Judge everything, in the order in which one would mend it."""
    findings: list[Finding] = []
    if isinstance(facts.buffer, PipelineError):
        findings.append(_away("redis", facts.buffer, "start Redis, or mend PIPELINE_REDIS_URL"))
    else:
        findings += _judge_buffer(facts.buffer)
    if isinstance(facts.broker, PipelineError):
        findings.append(_away("broker", facts.broker, "start the broker, or mend PIPELINE_BROKER_URL"))
    else:
        findings += _judge_broker(facts.broker, facts.flush_interval_seconds)
    if isinstance(facts.store, PipelineError):
        findings.append(_away("postgres", facts.store, "start PostgreSQL, or mend PIPELINE_DATABASE_URL"))
    else:
        findings += _judge_store(facts.store)
    if not isinstance(facts.lanes, PipelineError):
        findings += _judge_lanes(facts.lanes, facts)
    return findings


def _away(check: str, error: PipelineError, advice: str) -> Finding:
    return Finding(check, Level.PROBLEM, str(error), advice)


def _ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def _judge_buffer(facts: BufferFacts) -> Iterator[Finding]:
    number = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdecimal())
    if number < _OLDEST_REDIS:
        yield Finding("redis", Level.PROBLEM, f"version {facts.version} is too old", "use Redis ≥ 6.2 or Valkey")
    elif facts.role != "master":
        yield Finding(
            "redis", Level.PROBLEM, f"this Redis is a {facts.role}", "let PIPELINE_REDIS_URL name the primary"
        )
    else:
        yield _ok("redis", f"reachable, version {facts.version}")
    yield _judge_eviction(facts)
    yield _judge_append_only_file(facts)
    yield _judge_memory(facts)
    if facts.topology_problem is None:
        yield _ok("topology", "agrees with this configuration")
    else:
        yield Finding(
            "topology", Level.PROBLEM, facts.topology_problem, "give every client and worker the same PIPELINE_SHARDS"
        )
    if facts.script_problem is None:
        yield _ok("scripts", "load")
    else:
        yield Finding(
            "scripts", Level.PROBLEM, facts.script_problem, "allow EVALSHA and SCRIPT LOAD to the user of the URL"
        )


def _judge_eviction(facts: BufferFacts) -> Finding:
    policy = facts.policy
    if policy is None:
        return Finding("eviction", Level.WARNING, "Redis does not tell its policy", "make sure that it is noeviction")
    if policy.startswith("allkeys"):
        return Finding(
            "eviction",
            Level.PROBLEM,
            f"maxmemory-policy {policy} may evict events that are pending; it has evicted {facts.evicted} keys",
            "CONFIG SET maxmemory-policy noeviction (or volatile-lru, if cached rows may go)",
        )
    return _ok("eviction", f"maxmemory-policy {policy}")


def _judge_append_only_file(facts: BufferFacts) -> Finding:
    check = "append-only file"
    if not facts.append_only:
        return Finding(
            check, Level.PROBLEM, "it is off: a restart of Redis loses what is pending", "CONFIG SET appendonly yes"
        )
    if not facts.last_write_ok:
        return Finding(check, Level.PROBLEM, "the last write to it failed", "look at the disk and the log of Redis")
    if facts.append_fsync == "no":
        return Finding(
            check,
            Level.WARNING,
            "appendfsync no: a power cut loses what the kernel has not written, maybe half a minute",
            "CONFIG SET appendfsync everysec (or always)",
        )
    return _ok(check, f"on, appendfsync {facts.append_fsync or 'unknown'}")


def _judge_memory(facts: BufferFacts) -> Finding:
    limit = facts.max_memory or facts.system_memory
    what = "maxmemory" if facts.max_memory else "the machine's memory (maxmemory is not set)"
    share = facts.used_memory / limit if limit else 0.0
    said = f"{facts.used_memory / 2**20:.0f} MiB used, {share:.0%} of {what}"
    advice = "flush faster, lower PIPELINE_MAX_PENDING, or give Redis more memory"
    if share >= _MEMORY_OUT:
        return Finding("memory", Level.PROBLEM, said, advice)
    if share >= _MEMORY_TIGHT:
        return Finding("memory", Level.WARNING, said, advice)
    return _ok("memory", said)


def _judge_broker(facts: BrokerFacts, flush_interval_seconds: float) -> Iterator[Finding]:
    if facts.waiting_control is None:
        yield _ok("broker", "what waits in its queues, only its own tools can tell")
    elif facts.waiting_control > _TICKS:
        yield Finding(
            "broker",
            Level.PROBLEM,
            f"{facts.waiting_control} control tasks wait, one more is added every {flush_interval_seconds:g} s",
            "start a worker, or more of them: celery -A tasks worker",
        )
    else:
        yield _ok("broker", f"reachable, {facts.waiting_control} control tasks and {facts.waiting_ingress} events wait")
    if facts.unmoved_seconds is not None:
        yield Finding(
            "ingress",
            Level.PROBLEM,
            f"{facts.waiting_ingress} events of Celery clients wait; in {facts.unmoved_seconds:g} s nobody took one",
            "start beat, which asks for the flush that takes them, and a worker: celery -A tasks beat, "
            "celery -A tasks worker; if both run, see that their PIPELINE_… settings are the same as here",
        )


def _judge_store(facts: StoreFacts) -> Iterator[Finding]:
    version = f"{facts.version // 10_000}.{facts.version % 10_000}"
    if facts.version < _OLDEST_POSTGRES:
        yield Finding("postgres", Level.PROBLEM, f"version {version} is too old", "use PostgreSQL ≥ 15")
    elif facts.standby:
        yield Finding(
            "postgres", Level.PROBLEM, "this server is a standby", "let PIPELINE_DATABASE_URL name the primary"
        )
    else:
        yield _ok("postgres", f"reachable, version {version}")
    off = [name for name, on in (("fsync", facts.fsync), ("full_page_writes", facts.full_page_writes)) if not on]
    if off:
        yield Finding(
            "durability",
            Level.PROBLEM,
            f"{' and '.join(off)} off: a power cut may destroy the database, and Redis has forgotten what is in it",
            "set it to on in postgresql.conf; it is for throw-away servers only",
        )
    else:
        yield _ok("durability", "fsync is on; the flush itself insists on synchronous_commit")
    if facts.missing_migrations:
        yield Finding(
            "schema", Level.PROBLEM, f"not applied: {', '.join(facts.missing_migrations)}", "run `pipeline migrate`"
        )
    else:
        yield _ok("schema", "up to date")
    if facts.missing_rights:
        yield Finding(
            "grants",
            Level.PROBLEM,
            f"the role lacks {', '.join(facts.missing_rights)}",
            "grant them to the role of PIPELINE_DATABASE_URL",
        )
    else:
        yield _ok("grants", "the role may do what the flush does")
    for table in facts.tables:
        yield _judge_table(table)


def _judge_table(table: TableFacts) -> Finding:
    check = f"table {table.name}"
    if table.problem is not None:
        return Finding(
            check,
            Level.PROBLEM,
            f"{table.problem}; its events are set aside",
            "create it, or take it out of PIPELINE_TABLES and PIPELINE_WRITE_THROUGH_TABLES",
        )
    if table.missing_rights:
        return Finding(
            check,
            Level.PROBLEM,
            f"the role lacks {', '.join(table.missing_rights)} on it",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO the role of PIPELINE_DATABASE_URL",
        )
    if not table.keyed:
        return Finding(
            check, Level.WARNING, "has no usable unique key: only inserts work", "add a primary key or a unique index"
        )
    return _ok(check, "can be written")


# --- the lanes


def _judge_lanes(lanes: Sequence[Lane], facts: Facts) -> Iterator[Finding]:
    patience = max(_PATIENCE_SECONDS, 10 * facts.flush_interval_seconds)
    findings = [finding for lane in lanes for finding in _judge_lane(lane, patience, facts.max_pending // len(lanes))]
    yield from findings
    pending = sum(lane.pending for lane in lanes)
    if not findings:
        oldest = max((lane.oldest_age for lane in lanes if lane.oldest_age is not None), default=None)
        yield _ok("lanes", f"{pending} events pending" + (f", the oldest for {oldest:.1f} s" if oldest else ""))
    dead = sum(lane.dead_letters for lane in lanes)
    if dead:
        yield Finding(
            "dead letters", Level.WARNING, f"there are {dead}", "`pipeline dead-letters list` says why; mend and replay"
        )
    elif not isinstance(facts.store, PipelineError):
        yield _ok("dead letters", "none")


def _judge_lane(lane: Lane, patience: float, limit: int) -> Iterator[Finding]:
    check = f"shard {lane.shard}"
    if lane.store_gaps:
        yield Finding(
            check,
            Level.PROBLEM,
            f"PostgreSQL went back in time ({lane.store_gaps} times): batches that Redis has forgotten are not in it",
            "was it restored from a backup? Bring their effects back from where the application has them",
        )
    if lane.rechecking:
        yield Finding(
            check,
            Level.WARNING,
            "Redis went back in time; events that come again are recognized, but what it accepted last may be lost",
            "look at its append-only file and failover settings; write what must not be lost with durability",
        )
    if lane.failures:
        yield Finding(
            check,
            Level.PROBLEM if lane.failures >= _FAILURES else Level.WARNING,
            f"its frozen batch has failed {lane.failures} times ({lane.error}); it is tried again, nothing is lost",
            "mend what the error says",
        )
    for name, why in lane.paused.items():
        yield Finding(
            check,
            Level.PROBLEM,
            f"{name} is paused, {lane.parked} events are set aside ({why})",
            "mend the table, its columns or the grants; it resumes by itself",
        )
    if lane.oldest_age is not None and lane.oldest_age > patience and not lane.failures and not lane.paused:
        yield Finding(
            check,
            Level.PROBLEM,
            f"nobody flushes: its oldest event has been pending for {lane.oldest_age:.0f} s",
            "is a worker running (celery -A tasks worker), and a beat (celery -A tasks beat)?",
        )
    if lane.pending >= _QUEUE_TIGHT * limit:
        yield Finding(
            check,
            Level.WARNING,
            f"{lane.pending} events are pending, its limit is {limit}; beyond it nothing is accepted",
            "run more workers, or raise PIPELINE_MAX_PENDING",
        )
