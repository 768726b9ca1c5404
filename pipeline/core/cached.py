"""A row as the cache holds it, column → JSON, and the pending changes of a row as its overlay holds them.

The write script updates cached columns itself, so the form of a value says whether it may: a plain value is one that it
may replace or add to, with the result that PostgreSQL would have; a value in a list of one is not.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipeline.core.change import Change, unseal
from pipeline.core.values import Columns, Value, from_wire, to_wire
from pipeline.errors import InvalidEvent

__all__ = ["Pending", "decode_overlay", "decode_row", "differing", "encode_row"]


class Pending(msgspec.Struct, frozen=True):
    """What a pending event does to a row. ``seq`` is its place in the order of its shard."""

    seq: int
    event_id: str
    change: Change


_PLAIN: Final = frozenset({int, str, bool, type(None)})
_to_json: Final = msgspec.json.Encoder().encode
_values: Final = msgspec.json.Decoder(list[Any]).decode
_entry: Final = msgspec.json.Decoder(tuple[int, str, Change]).decode


def encode_row(row: Columns, updatable: Container[str]) -> dict[str, bytes] | None:
    """The cached form of ``row``; the write script may change the columns in ``updatable``.

    ``None`` if a value would not come back as it is (a range, a network address, NaN …): such a row is not cached.
    """
    fields: dict[str, bytes] = {}
    for name, value in row.items():
        try:
            json = b"[" + _to_json(to_wire(value)) + b"]"
            same = from_wire(_values(json)[0])
        except (InvalidEvent, msgspec.MsgspecError):
            return None
        if type(same) is not type(value) or same != value:
            return None
        plain = name in updatable and type(value) in _PLAIN
        fields[name] = json[1:-1] if plain else json
    return fields


def decode_row(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The row whose cached form is ``fields``."""
    values = _values(b"[" + b",".join(fields.values()) + b"]")
    return {
        name.decode(): from_wire(value[0]) if type(value) is list else value
        for name, value in zip(fields, values, strict=True)
    }


def differing(fields: Mapping[bytes, bytes], row: Columns) -> list[str]:
    """The columns in which the row whose cached form is ``fields`` differs from ``row``, as a read returns them."""
    names = dict.fromkeys([*row, *(name.decode(errors="backslashreplace") for name in fields)])
    return [name for name in names if name not in row or not _holds(fields.get(name.encode()), row[name])]


def _holds(json: bytes | None, value: Value) -> bool:
    if json is None:
        return False
    try:
        (cached,) = _values(b"[" + json + b"]")
        return _same(from_wire(cached[0] if type(cached) is list else cached), value)
    except (InvalidEvent, msgspec.MsgspecError, ValueError, LookupError):  # nothing that we have written
        return False


def _same(one: Value, other: Value) -> bool:
    """Equal, and of the same types through and through: ``1 == True == 1.0``."""
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and all(map(_same, one, other))
    if type(one) is dict:
        return one.keys() == other.keys() and all(_same(item, other[name]) for name, item in one.items())
    return bool(one == other)


def decode_overlay(entries: Sequence[bytes]) -> list[Pending]:
    """The pending changes of a row, oldest first.

    Raises:
        ValueError: an entry is not what the write script writes.
    """
    pending = []
    for entry in entries:
        seq, event_id, change = _entry(entry)
        pending.append(Pending(seq, event_id, unseal(change)[0]))
    return pending
