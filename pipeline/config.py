"""The configuration of a pipeline: one frozen value, checked when it is made.

`Config` names the settings; `Config.from_mapping` reads them from environment-like text (``PIPELINE_REDIS_URL`` …) or
from a framework's settings. Every number carries its unit in its name, except where the environment variable's name is
part of the public contract (``PIPELINE_FLUSH_INTERVAL`` is in seconds).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Final, Literal, Self, get_args, get_type_hints

import msgspec

from pipeline.core.change import canonical_table
from pipeline.core.pace import Pace
from pipeline.core.retry import RetryPolicy
from pipeline.errors import InvalidEvent, InvalidSetting

__all__ = ["DURABILITIES", "Config", "Durability", "ThroughPolicy", "WhenFull"]

Durability = Literal["memory", "disk", "replica"]
"""How safe an event is when its write is answered: in the memory of Redis, fsynced there, or also in a replica."""

DURABILITIES: Final[frozenset[str]] = frozenset(get_args(Durability))

WhenFull = Literal["raise", "block"]
"""What a write to a full shard does: raise `PipelineFull` at once, or wait for room first."""

ThroughPolicy = Literal["raise", "route"]
"""What becomes of a write to a table that is written through: it is an error, or it is a ``write_through``."""

_MOST = 2**53  # as Lua counts
_Positive = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=315_576_000)]  # ten years: no infinity
_RedisUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(rediss?|unix)://",
        description="a URL that begins with redis://, rediss:// or unix://",
    ),
]
_Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z][a-z0-9_-]{0,39}\Z",
        description="a small letter and then up to 39 small letters, digits, hyphens and underscores",
    ),
]

PREFIX: Final = "PIPELINE_"

_LEASES: Final = 3
"""One lease until somebody may follow a killed worker, and two for whoever follows to be killed or to be late."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a pipeline; the environment variable of each is its ``PIPELINE_…`` name in brackets.

    Attributes:
        redis_url: where the buffer lives [REDIS_URL].
        database_url: libpq connection string of PostgreSQL ≥ 15 [DATABASE_URL].
        broker_url: Celery's broker for ingress and flush tasks [BROKER_URL]; default: ``redis_url``.
        namespace: prefix of Redis keys, queues and task names [NAMESPACE].
        shards: number of ordered lanes; fixed once the pipeline has been used [SHARDS].
        flush_interval_seconds: period of the flush task [FLUSH_INTERVAL].
        flush_threshold: queue length at which a write asks for a flush at once, 0 for never [FLUSH_THRESHOLD];
            default: ``batch_size``.
        flush_slice_seconds: how long one flush task works on a shard before it gives way [FLUSH_SLICE].
        batch_size: most events in one transaction [BATCH_SIZE].
        commit_target_seconds: how long a transaction should take at most: batches are smaller, down to a fiftieth of
            ``batch_size``, where PostgreSQL is slower; up to three times the cost of a commit without any events where
            that alone is most of it [COMMIT_TARGET]. See `pipeline.core.pace`.
        batch_bytes: most bytes of messages in one transaction [BATCH_BYTES].
        ingress_batch: most messages of the ingress queue that a flush takes at once, when the broker is this Redis;
            0: none, workers take them one by one [INGRESS_BATCH].
        max_pending: most pending events of the pipeline; each shard may hold its equal share [MAX_PENDING].
        when_full: what a write to a full shard does: ``"raise"`` `PipelineFull`, or ``"block"``: wait for room, and
            raise it when ``full_timeout_seconds`` are over [WHEN_FULL]. Events that come as Celery messages never wait.
        full_timeout_seconds: how long a write waits for room [FULL_TIMEOUT].
        max_event_bytes: most bytes of one event's message [MAX_EVENT_BYTES].
        cache_ttl_seconds: how long a clean cached row lives [CACHE_TTL].
        dedupe_window_seconds: how long an ``event_id`` is remembered [DEDUPE_WINDOW]; at least three leases where the
            flush takes the ingress queue, or what a killed worker has accepted would be accepted again by the next one.
        durability: what a write waits for if it does not say: ``"memory"``, ``"disk"`` or ``"replica"`` [DURABILITY].
        durability_timeout_seconds: how long a write waits for ``"disk"`` or ``"replica"`` [DURABILITY_TIMEOUT].
        lease_seconds: how long a flusher may work on one batch before another one may look at its shard [LEASE].
        redis_timeout_seconds: for every Redis command [REDIS_TIMEOUT].
        statement_timeout_seconds: for every statement of a flush [STATEMENT_TIMEOUT].
        ledger_retention_seconds: how long PostgreSQL remembers the ids of applied events [LEDGER_RETENTION]. A Redis
            that comes back with a state older than this could apply events again.
        retry_base_seconds, retry_cap_seconds, retry_attempts: see `pipeline.core.retry.RetryPolicy` [RETRY_BASE, …].
        tables: tables that may be written, comma-separated; empty: every table that the database role may write
            [TABLES].
        write_through_tables: tables that only ``write_through`` may write, comma-separated [WRITE_THROUGH_TABLES].
        write_through_policy: ``"raise"``: ``write``, ``delete``, ``insert`` and ``write_many`` are an error there;
            ``"route"``: they are written through. Groups and events from Celery are refused [WRITE_THROUGH_POLICY].
    """

    redis_url: _RedisUrl = "redis://127.0.0.1:6379/0"
    database_url: str = "postgresql://127.0.0.1:5432/postgres"
    broker_url: str = ""
    namespace: _Name = "pipeline"
    shards: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    flush_interval_seconds: _Seconds = 1.0
    flush_threshold: Annotated[int, msgspec.Meta(ge=-1, le=_MOST)] = -1
    flush_slice_seconds: _Seconds = 5.0
    batch_size: _Positive = 5000
    commit_target_seconds: _Seconds = 1.0
    batch_bytes: _Positive = 32 * 1024 * 1024
    ingress_batch: Annotated[int, msgspec.Meta(ge=0, le=_MOST)] = 2000
    max_pending: _Positive = 1_000_000
    when_full: WhenFull = "raise"
    full_timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    max_event_bytes: _Positive = 262_144
    cache_ttl_seconds: _Seconds = 3600.0
    dedupe_window_seconds: _Seconds = 86_400.0
    durability: Durability = "memory"
    durability_timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 5.0
    lease_seconds: _Seconds = 10.0
    redis_timeout_seconds: _Seconds = 10.0
    statement_timeout_seconds: _Seconds = 30.0
    ledger_retention_seconds: _Seconds = 7 * 86_400.0
    retry_base_seconds: _Seconds = 0.2
    retry_cap_seconds: _Seconds = 30.0
    retry_attempts: _Positive = 5
    tables: tuple[str, ...] = ()
    write_through_tables: tuple[str, ...] = ()
    write_through_policy: ThroughPolicy = "raise"

    def __post_init__(self) -> None:
        for field, type_ in _types().items():
            try:
                msgspec.structs.force_setattr(self, field, msgspec.convert(getattr(self, field), type_))
            except msgspec.ValidationError as error:
                raise InvalidSetting(PREFIX + _variable_of(field), str(error)) from None
        if not self.broker_url:
            msgspec.structs.force_setattr(self, "broker_url", self.redis_url)
        if self.flush_threshold < 0:
            msgspec.structs.force_setattr(self, "flush_threshold", self.batch_size)
        if self.max_pending < self.shards:
            raise InvalidSetting(
                f"{PREFIX}MAX_PENDING", f"{self.max_pending} is less than the number of shards ({self.shards})"
            )
        if self.ingress_batch and self.shares_broker and self.dedupe_window_seconds < _LEASES * self.lease_seconds:
            raise InvalidSetting(
                f"{PREFIX}DEDUPE_WINDOW",
                f"{self.dedupe_window_seconds:g} s is less than {_LEASES} times {PREFIX}LEASE "
                f"({self.lease_seconds:g} s): what a killed worker has taken from Celery could be accepted twice",
            )
        for field in _LISTS:
            for table in getattr(self, field):
                try:
                    canonical_table(table)
                except InvalidEvent as error:
                    raise InvalidSetting(PREFIX + _variable_of(field), str(error)) from error

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        return [(field, _without_secret(value) if field.endswith("_url") else value) for field, value in values.items()]

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"

    @property
    def shares_broker(self) -> bool:
        """Whether Celery's queues lie in the pipeline's own Redis; not if that is spelled in another way there."""
        return self.broker_url == self.redis_url

    @property
    def retry(self) -> RetryPolicy:
        """The retry policy of the flush."""
        return RetryPolicy(self.retry_base_seconds, self.retry_cap_seconds, self.retry_attempts)

    @property
    def pace(self) -> Pace:
        """What the size of batches follows; never so slowly that one runs into the statement timeout first."""
        longest = self.statement_timeout_seconds / 2
        return Pace(self.batch_size, min(self.commit_target_seconds, longest), longest)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], prefix: str = PREFIX) -> Self:
        """Read the settings out of ``values``; texts are converted, unknown names with the prefix are refused.

        Raises:
            InvalidSetting: names the variable and the problem.
        """
        fields: dict[str, Any] = {}
        for name, value in values.items():
            if name.startswith(prefix) and value != "":
                field = _field_of(name.removeprefix(prefix))
                if field is None:
                    if name.startswith(prefix + _NOT_OURS):
                        continue
                    raise InvalidSetting(name, _unknown(name.removeprefix(prefix), prefix))
                fields[field] = (
                    tuple(filter(None, map(str.strip, value.split(","))))
                    if field in _LISTS and isinstance(value, str)
                    else value
                )
        try:
            return msgspec.convert(fields, cls, strict=False)
        except msgspec.ValidationError as error:
            cause = error.__cause__
            if isinstance(cause, InvalidSetting):
                raise InvalidSetting(prefix + cause.name.removeprefix(PREFIX), cause.problem) from None
            raise _invalid(error, fields, prefix) from error


_LISTS: Final = ("tables", "write_through_tables")
_UNIT: Final = "_seconds"
_NOT_OURS: Final = "EMBEDDED_"


def _field_of(variable: str) -> str | None:
    name = variable.lower()
    return next((field for field in (name, name + _UNIT) if field in Config.__struct_fields__), None)


def _variable_of(field: str) -> str:
    return field.removesuffix(_UNIT).upper()


@cache
def _types() -> Mapping[str, Any]:
    return get_type_hints(Config, include_extras=True)


def _without_secret(url: str) -> str:
    """Scheme, host and path of a URL, without user, password and parameters."""
    scheme, is_url, rest = url.partition("://")
    place, _, parameters = rest.partition("?")
    if not is_url or "@" in parameters:  # libpq's keywords, or a password with a question mark in it
        return "…"
    return f"{scheme}://{place.rpartition('@')[2]}"


def _invalid(error: msgspec.ValidationError, fields: Mapping[str, Any], prefix: str) -> InvalidSetting:
    problem, _, path = str(error).partition(" - at `$.")
    field = path.rstrip("`")
    if field not in fields:
        return InvalidSetting(prefix + "*", problem)
    if problem.startswith("Invalid enum value"):
        choices = get_args(_types()[field])
        return InvalidSetting(prefix + _variable_of(field), f"must be {' or '.join(choices)}, not {fields[field]!r}")
    shown = "" if field.endswith("_url") else f", not {fields[field]!r}"  # a URL may carry a password
    return InvalidSetting(prefix + _variable_of(field), _wanted(field, problem) + shown)


def _wanted(field: str, problem: str) -> str:
    """What a setting must be, for who has written it as text; msgspec says it for who has written its type."""
    form = next((meta.description for meta in get_args(_types()[field])[1:] if meta.pattern), None)
    if form is not None:
        return f"must be {form}"
    return _KINDS.get(problem.partition(",")[0], problem)


_KINDS: Final = {"Expected `int`": "must be a whole number", "Expected `float`": "must be a number"}


def _unknown(variable: str, prefix: str) -> str:
    variables = list(map(_variable_of, Config.__struct_fields__))
    alike = get_close_matches(variable, variables, n=1)
    meant = f"did you mean {prefix}{alike[0]}? The " if alike else ""
    return f"there is no such setting; {meant}settings are {', '.join(prefix + each for each in variables)}"
