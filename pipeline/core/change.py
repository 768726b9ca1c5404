"""A change: one operation on one row of one table. An event: changes that are applied or dead-lettered together.

`Change` is also the wire form: its JSON is the keyword arguments of the task ``pipeline.apply_event``.

The laws of a change, which the fold, the SQL and the cache script all keep:

* A write (``set``, ``add``, ``max``, ``min``) on a missing row behaves as on a row of the columns' defaults.
* ``add``, ``max`` and ``min`` on NULL give the operand: an ``add`` counts NULL as 0, a ``max`` of NULL and x is x.
* ``delete`` of a missing row does nothing. A write after a delete makes a new row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeGuard
from uuid import UUID
from zlib import crc32

import msgspec

from pipeline.core.names import MAX_NAME_BYTES, TableNames, canonical_table
from pipeline.core.values import AS_IN_JSON, Columns, from_wire, identity, to_wire, travels_as_it_is
from pipeline.errors import InvalidEvent

__all__ = [
    "RANDOM_BYTES",
    "Change",
    "Event",
    "TableNames",
    "canonical_table",
    "changes_of",
    "check_event_id",
    "columns_of",
    "event_ids",
    "lane_of",
    "printable",
    "seal",
    "shard_of",
    "unseal",
]


class Change(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One operation on one row.

    Exactly one of three forms:

    * a write: ``key`` and any of ``set`` (column → value), ``add`` (column → increment), ``max`` and ``min``
      (column → value). With none of them the row is created if it is missing.
    * a delete: ``key`` and ``delete=True``.
    * an insert: ``insert`` (column → value) and no key; the row is appended.

    ``table`` is spelled as in SQL: ``page_views``, ``shop.orders``, ``"Order"``. Column names are exact and never
    quoted.
    """

    table: str
    key: dict[str, Any] = {}
    set: dict[str, Any] = {}
    add: dict[str, Any] = {}
    max: dict[str, Any] = {}
    min: dict[str, Any] = {}
    delete: bool = False
    insert: dict[str, Any] | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """Changes that are applied together or dead-lettered together.

    ``seq`` and ``accepted_ms`` (Unix time in milliseconds) are what Redis assigned when it accepted the event; they are
    ``None`` for a message that a Celery client put into a shard queue itself. ``raw`` is the message as it was.
    ``identities`` are those of the changes' keys, in the same order (``None`` for an insert). ``refused`` says why the
    write side did not accept an event that another Celery client published: it is a dead letter already.
    """

    id: str
    changes: tuple[Change, ...]
    identities: tuple[str | None, ...]
    raw: bytes = b""
    seq: int | None = None
    accepted_ms: int | None = None
    shard_by: str | None = None
    refused: str | None = None


def columns_of(change: Change) -> Iterator[str]:
    """Every column that ``change`` names; some may come twice."""
    return chain(change.key, change.set, change.add, change.max, change.min, change.insert or ())


def changes_of(arguments: Mapping[str, Any]) -> list[Change]:
    """The changes in the keyword arguments of the task ``apply_event``; their values are not checked yet.

    Raises:
        InvalidEvent: unknown, missing or mixed arguments.
    """
    if "changes" not in arguments:
        return [_change_of(arguments)]
    if len(arguments) > 1:
        raise InvalidEvent("changes=[…] cannot be mixed with the arguments of a single change")
    changes = arguments["changes"]
    if not isinstance(changes, list | tuple) or not all(isinstance(change, Mapping) for change in changes):
        raise InvalidEvent("changes must be a list of dicts")
    return [_change_of(change) for change in changes]


def _change_of(arguments: Mapping[str, Any]) -> Change:
    given = {name: value for name, value in arguments.items() if value is not None}
    if unknown := given.keys() - frozenset(Change.__struct_fields__):
        raise InvalidEvent(f"apply_event takes no argument {min(unknown)!r:.80}")
    if not isinstance(given.get("delete", False), bool):
        raise InvalidEvent("delete must be true or false")
    if "table" not in given:
        raise InvalidEvent("a table is needed")
    return Change(**given)


MAX_IDENTITY: Final = 4096
"""Characters of a key's identity: Redis keys carry it, and a B-tree entry holds at most about 2,700 bytes anyway."""


def seal(change: Change) -> tuple[dict[str, Any], str | None]:
    """Check ``change`` and return its wire form and the identity of its key (``None`` for an insert).

    Raises:
        InvalidEvent: names the table, the column and the problem.
    """
    table = change.table
    try:
        if not isinstance(table, str):
            raise InvalidEvent(f"the table must be text, not {type(table).__qualname__}")
        table = canonical_table(table)
        wire: dict[str, Any] = {"table": table}
        if change.insert is not None:
            _refuse_mixed_insert(change)
            wire["insert"] = _seal_columns(change.insert)
            return wire, None
        if not change.key:
            raise InvalidEvent("a key is needed: {column: value} of the primary key or of a unique index")
        wire["key"] = _seal_columns(change.key)
        name = _identified(change.key)
        if change.delete:
            if change.set or change.add or change.max or change.min:
                raise InvalidEvent("a delete cannot also set, add, max or min")
            wire["delete"] = True
            return wire, name
        for verb, columns in (("set", change.set), ("add", change.add), ("max", change.max), ("min", change.min)):
            if columns or type(columns) is not dict:
                wire[verb] = _seal_columns(columns)
        _check_operands(change)
    except InvalidEvent as error:
        raise type(error)(error.problem, error.table or str(table)[:200], error.column) from None
    return wire, name


def _identified(key: Columns) -> str:
    name = identity(key)
    if len(name) > MAX_IDENTITY:
        raise InvalidEvent(f"the key is {len(name)} characters long, more than {MAX_IDENTITY}")
    return name


def _seal_columns(columns: Columns) -> dict[str, Any]:
    if type(columns) is not dict and not isinstance(columns, Mapping):  # asking an abstract class takes its time
        raise InvalidEvent(f"columns come as a dict of column → value, not as {type(columns).__qualname__}")
    wire: dict[str, Any] = {}
    for name, value in columns.items():
        _check_name(name)
        if travels_as_it_is(value):
            wire[name] = value
            continue
        try:
            wire[name] = to_wire(value)
        except InvalidEvent as error:
            raise InvalidEvent(error.problem, column=name) from None
    return wire


@lru_cache(maxsize=4096)
def _check_name(name: object) -> None:
    if not _is_text(name) or not name or "\x00" in name:
        raise InvalidEvent(f"a column name must be text, not {name!r:.80}")
    if len(name) > MAX_NAME_BYTES or (not name.isascii() and len(name.encode()) > MAX_NAME_BYTES):
        raise InvalidEvent(f"a column name of more than {MAX_NAME_BYTES} bytes, which no table has: {name!r:.80}")


def printable(name: str) -> str:
    """``name`` in one line of a log: a column may be called anything."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _is_text(value: object) -> TypeGuard[str]:
    """Whether ``value`` is text that can leave this process: without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_mixed_insert(change: Change) -> None:
    if change.key or change.set or change.add or change.max or change.min or change.delete:
        raise InvalidEvent(
            "an insert is append-only: it takes its columns alone, without key, set, add, max, min, delete"
        )


_SUMMABLE: Final = (int, float, Decimal, timedelta)
INCREMENTS: Final = frozenset(_SUMMABLE)


def _check_operands(change: Change) -> None:
    key, set_, add, max_, min_ = change.key, change.set, change.add, change.max, change.min
    distinct = len({**key, **set_, **add, **max_, **min_})  # a dict: it takes over whole dicts at once, a set does not
    if distinct != len(key) + len(set_) + len(add) + len(max_) + len(min_):
        named = [*key, *set_, *add, *max_, *min_]
        twice = next(name for name in named if named.count(name) > 1)
        raise InvalidEvent("the column appears twice in one change (in key, set, add, max, min)", column=twice)
    for name, value in add.items():
        if not isinstance(value, _SUMMABLE) or isinstance(value, bool):
            raise InvalidEvent(f"an increment must be a number or a timedelta, not {_kind(value)}", column=name)
    if max_ or min_:
        for name, value in (*max_.items(), *min_.items()):
            if value is None or isinstance(value, dict | list | tuple):
                raise InvalidEvent(f"max and min take a single value, not {_kind(value)}", column=name)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__qualname__}"


def unseal(change: Change) -> tuple[Change, str | None]:
    """Decode the tagged values of a change that arrived as JSON (in place), check it, and identify its key.

    Raises:
        InvalidEvent: as `seal`.
    """
    table = canonical_table(change.table)
    if table != change.table:
        change = msgspec.structs.replace(change, table=table)
    key, set_, add, max_, min_ = change.key, change.set, change.add, change.max, change.min
    try:
        check_form(change)
        if change.insert is not None:
            _unseal_columns((change.insert,), known=well_named(tuple(change.insert)))
            return change, None
        known = well_named((*key, *set_, *add, *max_, *min_))
        _unseal_columns((key, set_, add, max_, min_), known=known)
        if not known or max_ or min_ or not INCREMENTS.issuperset(map(type, add.values())):
            _check_operands(change)
        return change, _identified(key)
    except InvalidEvent as error:
        raise InvalidEvent(error.problem, error.table or table, error.column) from None


def check_form(change: Change) -> None:
    """Raise `InvalidEvent` unless ``change`` is a write, a delete or an insert, and not two of them."""
    if change.insert is not None:
        _refuse_mixed_insert(change)
    elif not change.key:
        raise InvalidEvent("a key is needed")
    elif change.delete and (change.set or change.add or change.max or change.min):
        raise InvalidEvent("a delete cannot also set, add, max or min")


_KNOWN_NAMES: Final = 256
"""Combinations of column names that are remembered as good: a stranger's messages must not cost memory."""


@lru_cache(maxsize=_KNOWN_NAMES)
def well_named(names: tuple[str, ...]) -> bool:
    """Whether all of ``names`` may be columns, and none comes twice. If not, it must be found out which."""
    return len(set(names)) == len(names) and all(
        name and len(name.encode()) <= MAX_NAME_BYTES and "\x00" not in name for name in names
    )


_PLAIN: Final = AS_IN_JSON - {str}


def _unseal_columns(parts: Iterable[dict[str, Any]], *, known: bool) -> None:
    for columns in parts:
        if columns:
            for name, value in columns.items():
                if not known:
                    _check_name(name)
                kind = type(value)
                if kind not in _PLAIN and (kind is not str or "\x00" in value):
                    columns[name] = from_wire(value)


# --- ids and lanes ----------------------------------------------------------------------------------------------------


def lane_of(table: str, name: str | None, event: str, shards: int) -> int:
    """The lane of one change: by its row, which is a canonical table and an identity, or of an insert by its event."""
    return crc32((event if name is None else f"{table}\x00{name}").encode()) % shards


def shard_of(changes: Iterable[tuple[str, str | None]], shard_by: str | None, event: str, shards: int) -> int:
    """The lane of an event: by ``shard_by`` if given, else by its row keys, else (only inserts) by its id.

    ``changes`` are (canonical table, identity) pairs. The hash is CRC-32: it is fast in C, the same on every machine,
    and spreads well enough over a few lanes.

    Raises:
        InvalidEvent: the keys belong to different lanes and no ``shard_by`` says where the event goes.
    """
    if shard_by is not None:
        if not _is_text(shard_by):
            raise InvalidEvent(f"shard_by must be text, not {shard_by!r:.80}")
        return crc32(shard_by.encode()) % shards
    lanes = {lane_of(table, name, event, shards) for table, name in changes if name is not None}
    if len(lanes) > 1:
        raise InvalidEvent(
            "the rows of this group live in different shards; give shard_by= (e.g. 'order:42'), and give the same "
            "shard_by in every other write of these rows, so that their order is kept"
        )
    return lanes.pop() if lanes else crc32(event.encode()) % shards


MAX_EVENT_ID: Final = 200


def check_event_id(event: object) -> str:
    """``event`` if it can be an event id: 1 to 200 printable characters. A ``UUID`` becomes its text.

    Raises:
        InvalidEvent: otherwise.
    """
    if type(event) is str and 0 < len(event) <= MAX_EVENT_ID and event.isprintable():
        return event
    if isinstance(event, UUID):
        return str(event)
    if not isinstance(event, str) or not 0 < len(event) <= MAX_EVENT_ID or not event.isprintable():
        raise InvalidEvent(f"an event id must be 1 to {MAX_EVENT_ID} printable characters, not {event!r:.80}")
    return event


RANDOM_BYTES: Final = 10
"""Of an event id; it shows 74 of their 80 bits."""

_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # two bits are 10, two random


def event_ids(unix_ms: int, randomness: bytes) -> list[str]:
    """UUIDs of version 7 (RFC 9562 §5.7), one for each `RANDOM_BYTES` of ``randomness``.

    48 bits of Unix time in milliseconds, the version, 12 random bits, the variant, 62 random bits.
    """
    time = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}"
    stem = f"{time[:8]}-{time[8:]}-7"
    digits = randomness.hex()
    return [
        f"{stem}{digits[i : i + 3]}-{_VARIANT[digits[i + 3]]}{digits[i + 4 : i + 7]}-{digits[i + 7 : i + 19]}"
        for i in range(0, len(digits), 2 * RANDOM_BYTES)
    ]
