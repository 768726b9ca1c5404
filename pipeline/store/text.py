"""Values as the text that PostgreSQL's own input functions read, and columns of them as ``COPY`` reads them.

On the way to COPY a value is a **cell**: the value itself, if its JSON is its text (quoted or not), else its text. So
whole rows become bytes in one call, without an object for each text: see `copy_data`.

Text goes through the input function of the column's type, so every type works: enums, domains, ranges, extensions. What
a value may go into is decided here, strictly, because text hides the difference: ``'7'`` would become a number, bytes
would become the text of their hexadecimal form, and the time zone of a ``timestamp`` would be dropped without a word.

A value that does not fit raises `Unfit`; the event becomes a dead letter with that reason.

Everything works on a column at a time: nearly always its values are of one type, so the type is looked at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from types import NoneType
from typing import Any, Final
from uuid import UUID

import msgspec

from pipeline.core.table import Column, Kind

__all__ = ["COPY_OPTIONS", "Unfit", "array_text", "cells_of", "copy_data", "text_of", "texts_of", "texts_of_cells"]


class Unfit(Exception):
    """A value that its column cannot take as it is."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        return f"column {self.column}: {self.problem}"


Encoder = Callable[[Sequence[Any], Column], Sequence[Any]]
"""The cells of values of one type (none of them None), for a column."""


def _same(values: Sequence[Any], _column: Column) -> Sequence[Any]:
    """Numbers but floats, texts, UUIDs, dates …: what stands between the quotes of their JSON is their text."""
    return values


def _repr(values: Sequence[Any], _column: Column) -> list[str]:
    return list(map(repr, values))


def _bytes(values: Sequence[Any], _column: Column) -> list[str]:
    return ["\\x" + value.hex() for value in values]


def _datetimes(values: Sequence[datetime], column: Column) -> Sequence[Any]:
    zones = _zones(values, column, "datetime", zoned=column.kind is Kind.TIMESTAMPTZ)
    if zones.count(None) == len(values) or zones.count(UTC) == len(values):
        return values
    # JSON rounds an offset to minutes
    return [value if zone == UTC else value.isoformat() for value, zone in zip(values, zones, strict=True)]


def _times(values: Sequence[time], column: Column) -> list[str]:
    _zones(values, column, "time", zoned="with time zone" in column.plain_type)
    return [value.isoformat() for value in values]


def _zones(values: Sequence[datetime | time], column: Column, what: str, *, zoned: bool) -> list[tzinfo | None]:
    """The time zones of ``values``; raises `Unfit` if one of them has none, or has one where there must be none."""
    zones = [value.tzinfo for value in values]
    if zones.count(None) != (0 if zoned else len(values)):
        has = "no" if zoned else "a"
        raise Unfit(column.name, f"a {what} with {has} time zone does not fit the type {column.type}")
    return zones


def _timedeltas(values: Sequence[timedelta], _column: Column) -> list[str]:
    return [f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds" for value in values]


def _jsons(values: Sequence[Any], column: Column) -> list[str]:
    try:
        return [_encode_json(value).decode() for value in values]
    except (TypeError, UnicodeEncodeError) as error:
        raise Unfit(column.name, f"not JSON: {error}") from error


def _refuse_in_json(value: object) -> object:
    raise TypeError(f"a {type(value).__qualname__} has no JSON form; send it as text")


# msgspec would turn dates and UUIDs into text by itself: builtins that are no JSON are refused before it sees them
_NO_JSON: Final = (datetime, date, time, timedelta, UUID, bytes)


def _check_json(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _check_json(item)
    elif isinstance(value, list):
        for item in value:
            _check_json(item)
    elif isinstance(value, _NO_JSON):
        _refuse_in_json(value)


_json_encoder: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=_refuse_in_json)


def _encode_json(value: Any) -> bytes:
    _check_json(value)
    return _json_encoder.encode(value)


def _arrays(values: Sequence[list[Any]], column: Column) -> list[str]:
    if column.limited is not None:
        for value in values:
            _check_lengths(value, column, *column.limited)
    element = msgspec.structs.replace(column, kind=column.element or Kind.OTHER, type=column.type.removesuffix("[]"))
    return [array_text(value, element) for value in values]


def _check_lengths(values: Iterable[Any], column: Column, function: str, modifier: int) -> None:
    """A cast to the array's type cuts its elements off, and there is no function that refuses that instead."""
    length = modifier - 4 if function in {"varchar", "bpchar"} else modifier  # VARHDRSZ is in it
    for value in values:
        if isinstance(value, list):
            _check_lengths(value, column, function, modifier)
        elif isinstance(value, str) and len(value.rstrip(" ")) > length:
            raise Unfit(column.name, f"an element is too long for the type {column.type}")


def array_text(values: Iterable[Any], element: Column) -> str:
    """A PostgreSQL array literal; every element is quoted, so that no text in it has a meaning of its own."""
    parts = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif isinstance(value, list) and element.kind is not Kind.JSON:
            parts.append(array_text(value, element))
        else:
            quoted = text_of(value, element).replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{quoted}"')
    return "{" + ",".join(parts) + "}"


_NUMBERS: Final = (Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT, Kind.OTHER)

_ENCODERS: Final[Mapping[type, Mapping[Kind, Encoder]]] = {
    bool: {Kind.BOOL: _same, Kind.JSON: _jsons},
    int: {**dict.fromkeys(_NUMBERS, _same), Kind.JSON: _jsons},
    float: {**dict.fromkeys(_NUMBERS, _repr), Kind.JSON: _jsons},
    Decimal: {**dict.fromkeys(_NUMBERS, _same), Kind.JSON: _jsons},
    str: {kind: _same for kind in Kind if kind is not Kind.BYTES} | {Kind.JSON: _jsons},
    bytes: {Kind.BYTES: _bytes},
    datetime: {Kind.TIMESTAMPTZ: _datetimes, Kind.TIMESTAMP: _datetimes},
    date: {Kind.DATE: _same},
    time: {Kind.TIME: _times},
    timedelta: {Kind.INTERVAL: _timedeltas},
    UUID: {Kind.OTHER: _same},
    list: {Kind.ARRAY: _arrays, Kind.JSON: _jsons},
    dict: {Kind.JSON: _jsons},
}


def _encoder(found: type, column: Column) -> Encoder:
    encode = _ENCODERS[found].get(column.kind)
    if encode is None:
        raise Unfit(column.name, f"a {found.__qualname__} does not fit the type {column.type}")
    return encode


def cells_of(values: Sequence[Any], column: Column, types: AbstractSet[type] | None = None) -> Sequence[Any]:
    """The cells of a column's values, ``None`` for None. Raises as `text_of`, for any of those that do not fit.

    ``types``: those that the values may be of, if that is known.
    """
    types = types or set(map(type, values))
    encoders = {_encoder(found, column) for found in types if found is not NoneType}
    if encoders <= {_same}:
        return values
    present = [value for value in values if value is not None] if NoneType in types else values
    if len(encoders) == 1:
        cells = encoders.pop()(present, column)
    else:
        cells = [_encoder(type(value), column)([value], column)[0] for value in present]
    if len(present) == len(values):
        return cells
    found = iter(cells)
    return [None if value is None else next(found) for value in values]


def text_of(value: Any, column: Column) -> str:
    """The text of a value that is not None, for ``column``.

    Raises:
        Unfit: the column's type cannot take a value of this type without changing it.
    """
    return _text(_encoder(type(value), column)([value], column)[0])


def texts_of(values: Sequence[Any], column: Column) -> list[str | None]:
    """The texts of a column's values, ``None`` for None. Raises as `text_of`, for any of those that do not fit."""
    return texts_of_cells(cells_of(values, column))


def texts_of_cells(cells: Sequence[Any]) -> list[str | None]:
    """What a parameter of a statement says, where a row is not copied."""
    return [None if cell is None else _text(cell) for cell in cells]


_json: Final = msgspec.json.Encoder()


def _text(cell: Any) -> str:
    """What COPY reads in a cell that is not None."""
    return cell if type(cell) is str else _json.encode(cell).decode().strip('"')


# --- COPY -------------------------------------------------------------------------------------------------------------

COPY_OPTIONS: Final = r"(FORMAT csv, NULL 'null', ESCAPE E'\\')"
"""How COPY reads `copy_data`: a row of JSON, without its brackets, is a line of CSV. ``null`` is not ``"null"``."""

_CONTROLS: Final = {_json.encode(chr(code))[1:-1]: bytes([code]) for code in range(0x20)}
_CONTROL: Final = re.compile(b"|".join(map(re.escape, _CONTROLS)))
_PAIR: Final = b"\xff"  # there is no such byte in UTF-8


def copy_data(columns: Iterable[Sequence[Any]], *, ordered: bool = False) -> bytes:
    """Columns of cells, at least one, as rows for COPY, of which the first columns decide the order if ``ordered``.

    What JSON writes between two lines stands in no value, since it escapes a line feed.
    """
    data = _json.encode_lines(zip(*columns, strict=True))[1:-2].replace(b"]\n[", b"\n")
    if ordered:
        data = b"\n".join(sorted(data.split(b"\n")))
    return _unescaped(data)


def _unescaped(data: bytes) -> bytes:
    """JSON in which control characters are no longer escaped: COPY has only backslashes and quotes escaped."""
    if b"\\" not in data:
        return data
    data = data.replace(rb"\\", _PAIR)
    if data.count(b"\\") > data.count(rb"\""):
        data = _CONTROL.sub(lambda found: _CONTROLS[found[0]], data)
    return data.replace(_PAIR, rb"\\")
