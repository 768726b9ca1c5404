"""Forms of changes that were seen before: whoever knows the columns decodes a change without a dict for them.

msgspec decodes an object whose fields it knows in half the time, and refuses what has others. So the change of a known
form becomes a small struct, and many of them become columns without a look at their names. The types of most columns
are known as well: then nobody has to look at those either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache, partial
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from pipeline.core.entries import Block, Form
from pipeline.core.values import Value, column_from_wire, untagged

__all__ = ["Embed", "Known", "decoder_of", "known"]

MOST_COLUMNS: Final = 200
"""A form with more is not remembered: making its type takes a while, and few tables have so many."""

_PARTS: Final = ("key", "set", "add", "max", "min", "insert")

_Small = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_TAGS: Final[dict[type, tuple[str, type]]] = {
    datetime: ("datetime", str),
    date: ("date", str),
    time: ("time", str),
    Decimal: ("decimal", str),
    timedelta: ("timedelta", int),
}
"""Types of values that travel as tagged objects, with their tags and the types of what these hold."""


class _NoTable(msgspec.Struct, tag_field="table", tag="", gc=False):
    """msgspec insists on the tag only where there is a choice."""


class Embed(msgspec.Struct, frozen=True, gc=False):
    """What Celery would do after the task. Nothing of it matters here."""


_Read = Callable[[Sequence[Any]], tuple[Sequence[Value], frozenset[type]]]
"""Makes the values of a column, and says which types they may be of; raises `InvalidEvent` if some are wrong."""


class Known(NamedTuple):
    """A form, and the type that its changes are decoded to; ``parts`` of these have the values of its columns.

    ``kinds`` are the types that were seen in the columns, ``small`` those columns of the key that have integers of 64
    bits.
    """

    form: Form
    kinds: Sequence[frozenset[type]]
    of_change: type[msgspec.Struct]
    parts: Sequence[Callable[[Any], Any]]
    reads: Sequence[_Read]
    small: frozenset[str]

    def block(self, changes: Sequence[Any]) -> Block:
        """The block of these changes, but for the names of their rows; raises `InvalidEvent` if some are wrong."""
        wire = [column for part in self.parts for column in zip(*map(astuple, map(part, changes)), strict=True)]
        found = [read(values) for read, values in zip(self.reads, wire, strict=True)]
        return Block(self.form, [values for values, _ in found], [kinds for _, kinds in found], len(changes), None)


def known(block: Block, before: Known | None) -> Known | None:
    """What is to be remembered of a block's form instead of what was ``before``; ``None`` if there is nothing new.

    Changes of a known form are still strange if they spell it oddly, or have larger numbers in their keys.
    """
    form = block.form
    if not 0 < len(form.columns) <= MOST_COLUMNS or form.delete:
        return None
    if b"\\" in msgspec.json.encode(form.columns):  # msgspec has no field whose name JSON would escape
        return None
    kinds = block.kinds
    if before is not None and before.form == form:
        kinds = [now | then for now, then in zip(kinds, before.kinds, strict=True)]
        if kinds == before.kinds:
            return None
    types, reads = zip(*(_column(seen, in_key=at < len(form.key)) for at, seen in enumerate(kinds)), strict=True)
    left = iter(types)
    parts: dict[str, type[msgspec.Struct]] = {}
    for part in _PARTS:
        if names := getattr(form, part):
            fields = [(f"c{at}", next(left), msgspec.field(name=name)) for at, name in enumerate(names)]
            parts[part] = msgspec.defstruct(part, fields, frozen=True, forbid_unknown_fields=True, gc=False)
    of_change = msgspec.defstruct(
        "change", parts.items(), frozen=True, forbid_unknown_fields=True, gc=False, tag_field="table", tag=form.table
    )
    small = frozenset(name for name, one in zip(form.key, types, strict=False) if one is _Small)
    return Known(form, kinds, of_change, list(map(attrgetter, parts)), reads, small)


def _column(seen: frozenset[type], *, in_key: bool) -> tuple[Any, _Read]:
    """The type that a column is decoded to in which values of these types were ``seen``, and how it is read."""
    kinds = seen - {NoneType}
    if len(kinds) != 1:
        return Any, column_from_wire
    (one,) = kinds
    if seen == {int} and in_key:
        return _Small, partial(_as_they_are, seen)
    decoded_to: Any = _tagged(*_TAGS[one]) if one in _TAGS else one
    if NoneType in seen:
        decoded_to |= None
    if one in _TAGS:
        return decoded_to, partial(_untagged, _TAGS[one][0])
    if one is str:
        return decoded_to, partial(_texts, seen)
    return (decoded_to, partial(_as_they_are, seen)) if one in {int, bool} else (Any, column_from_wire)


@cache
def _tagged(name: str, payload: type) -> type[msgspec.Struct]:
    fields = [
        ("type", Literal[name], msgspec.field(name="__type__")),
        ("value", payload, msgspec.field(name="__value__")),
    ]
    return msgspec.defstruct("tagged", fields, frozen=True, forbid_unknown_fields=True, gc=False)


def _as_they_are(kinds: frozenset[type], values: Sequence[Any]) -> tuple[Sequence[Value], frozenset[type]]:
    return values, kinds


def _texts(kinds: frozenset[type], values: Sequence[Any]) -> tuple[Sequence[Value], frozenset[type]]:
    return (values, kinds) if "\x00" not in "".join(filter(None, values)) else column_from_wire(values)


def _untagged(name: str, values: Sequence[Any]) -> tuple[Sequence[Value], frozenset[type]]:
    decoded = untagged(name, [value.value for value in values if value is not None])
    if len(decoded) < len(values):
        found = iter(decoded)
        decoded = [None if value is None else next(found) for value in values]
    return decoded, frozenset(map(type, decoded))


def decoder_of(types: Iterable[type[msgspec.Struct]]) -> Callable[[str], tuple[object, Any, object]]:
    """Decodes the body of a message with a change of one of these types; raises `ValueError` for any other."""
    choice: Any = _NoTable
    for each in types:
        choice |= each
    return msgspec.json.Decoder(tuple[tuple[()], choice, Embed]).decode
