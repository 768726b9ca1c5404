"""Many messages at once, as a flush claims them: what they have in common is looked at once, their values by columns.

Nearly every message was made by this package for a single change, and nearly every change names the same columns as
one before it. The types here say what such an ordinary message is, so that the decoder itself tells it from others.
What is not ordinary goes the general way, `pipeline.core.codec.decode`, and so does what lies beside a wrong value:
there it is found out which one is wrong, and why. Both ways give the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec.structs import astuple

from pipeline.core.change import (
    INCREMENTS,
    MAX_EVENT_ID,
    MAX_IDENTITY,
    Change,
    Event,
    canonical_table,
    check_form,
    well_named,
)
from pipeline.core.codec import Counter, Malformed, decode
from pipeline.core.values import Value, column_from_wire, identities
from pipeline.errors import InvalidEvent

__all__ = ["decode_all"]

_TOGETHER: Final = 512
"""Messages that are looked at together, so that enough of them are alike, also where many tables are written to."""

_BESIDE: Final = 32
"""Changes among which the wrong one is looked for one by one."""

_FEW: Final = 4
"""So many changes at least that are alike are looked at together: with fewer it does not pay."""


class _Headers(msgspec.Struct, frozen=True, gc=False):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID)]
    task: str
    pipeline: tuple[Counter, Counter]
    refused: None = None
    compression: None = None


class _Properties(msgspec.Struct, frozen=True, gc=False):
    delivery_tag: str
    body_encoding: None = None


class _Message(msgspec.Struct, frozen=True, rename="kebab", gc=False):
    body: str
    headers: _Headers
    properties: _Properties
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]


class _Embed(msgspec.Struct, frozen=True, gc=False):
    """What Celery would do after the task. Nothing of it matters here."""


_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_body: Final = msgspec.json.Decoder(tuple[tuple[()], Change, _Embed]).decode


class _Mixed(Exception):
    """Changes that are not of one form."""


_Found = tuple[int, bytes, _Headers, Change]
"""An ordinary message, taken apart, and where it stood."""


def decode_all(messages: Sequence[bytes], task: str) -> list[Event | Malformed]:
    """What `decode` gives for each of ``messages``."""
    entries: list[Event | Malformed] = []
    for start in range(0, len(messages), _TOGETHER):
        entries += _decode_some(messages[start : start + _TOGETHER], task)
    return entries


def _decode_some(messages: Sequence[bytes], task: str) -> list[Event | Malformed]:
    found: dict[str, list[_Found]] = defaultdict(list)
    for position, raw in enumerate(messages):
        try:
            message = _decode_message(raw)
            change = _decode_body(message.body)[1]
        except (ValueError, RecursionError):
            continue
        if message.headers.task == task:
            found[change.table].append((position, raw, message.headers, change))
    entries: list[Event | None] = [None] * len(messages)
    for of_one_table in found.values():
        _fill(entries, of_one_table)
    return [decode(raw, task) if entry is None else entry for raw, entry in zip(messages, entries, strict=True)]


def _fill(entries: list[Event | None], found: Sequence[_Found]) -> None:
    """Put the events of ``found``, all of one table, where they stood, but not those to be looked at one by one."""
    if len(found) < _FEW:
        return
    try:
        if not "".join([headers.id for _, _, headers, _ in found]).isprintable():
            raise InvalidEvent("ids to be looked at one by one")
        names = _unseal([change for _, _, _, change in found])
    except _Mixed:
        for alike in _by_columns(found):
            _fill(entries, alike)
    except (ValueError, RecursionError):
        for start in range(0, len(found), _BESIDE) if len(found) > _BESIDE else ():
            _fill(entries, found[start : start + _BESIDE])  # what is decoded already stays as it is
    else:
        for (position, raw, headers, change), name in zip(found, names, strict=True):
            seq, accepted_ms = headers.pipeline
            entries[position] = Event(headers.id, (change,), (name,), raw, seq, accepted_ms)


def _by_columns(found: Iterable[_Found]) -> Collection[list[_Found]]:
    """``found`` by the columns of their changes, in their order, and by what is done to them."""
    forms: dict[tuple[object, ...], list[_Found]] = defaultdict(list)
    for each in found:
        _, key, set_, add, max_, min_, delete, insert = astuple(each[-1])
        columns = (*key, 0, *set_, 1, *add, 2, *max_, 3, *min_, delete, insert is None)
        forms[columns if insert is None else (*columns, *insert)].append(each)
    return forms.values()


def _unseal(changes: Sequence[Change]) -> Sequence[str | None]:
    """What `pipeline.core.change.unseal` does to each of ``changes``; returns the identities of their keys.

    Raises:
        _Mixed: it can only be done to those that are alike.
        InvalidEvent: something is wrong with some of them, or to be corrected.
    """
    one, count = changes[0], len(changes)
    _, *parts, deletes, inserts = zip(*map(astuple, changes), strict=True)
    if deletes.count(one.delete) < count or inserts.count(None) not in {0, count}:
        raise _Mixed
    parts.append(tuple([insert or {} for insert in inserts]))
    key, _, add, max_, min_, _ = columns = list(map(_columns, parts))
    check_form(one)
    if canonical_table(one.table) != one.table or not well_named(tuple(chain.from_iterable(columns))):
        raise InvalidEvent("names to be looked at one by one")
    for rows, values in zip(parts, columns, strict=True):
        _unseal_columns(rows, values)
    if not (_kinds(add) <= INCREMENTS and _NO_OPERANDS.isdisjoint(_kinds(max_) | _kinds(min_))):
        raise InvalidEvent("operands to be looked at one by one")
    if one.insert is not None:
        return [None] * count
    names = identities(key)
    if max(map(len, names)) > MAX_IDENTITY:
        raise InvalidEvent("keys to be looked at one by one")
    return names


_Columns = dict[str, Sequence[Value]]
"""Column → the values in it, of one row after the other."""

_NO_OPERANDS: Final = frozenset({type(None), dict, list})
"""What `max` and `min` do not take."""


def _columns(rows: Sequence[dict[str, Any]]) -> _Columns:
    """The columns of ``rows``; raises `_Mixed` if they do not all have the same ones."""
    if not any(rows):
        return {}
    names = tuple(rows[0])
    if set(map(len, rows)) != {len(names)}:
        raise _Mixed
    try:
        if len(names) == 1:
            return {name: [row[name] for row in rows] for name in names}
        return dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
    except KeyError:
        raise _Mixed from None


def _unseal_columns(rows: Sequence[dict[str, Any]], columns: _Columns) -> None:
    """Decode the tagged values, in ``rows`` and in ``columns`` of them."""
    for name, values in columns.items():
        decoded = column_from_wire(values)
        if decoded is not values:
            columns[name] = decoded
            for row, value in zip(rows, decoded, strict=True):
                row[name] = value


def _kinds(columns: _Columns) -> set[type]:
    return set(map(type, chain.from_iterable(columns.values())))
