"""Values as the text that PostgreSQL's own input functions read, and rows of them as ``COPY`` reads them.

Text goes through the input function of the column's type, so every type works: enums, domains, ranges, extensions. What
a value may go into is decided here, strictly, because text hides the difference: ``'7'`` would become a number, bytes
would become the text of their hexadecimal form, and the time zone of a ``timestamp`` would be dropped without a word.

A value that does not fit raises `Unfit`; the event becomes a dead letter with that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from pipeline.core.table import Column, Kind

__all__ = ["Unfit", "array_text", "copy_rows", "text_of"]


class Unfit(Exception):
    """A value that its column cannot take as it is."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column = column
        self.problem = problem

    def __str__(self) -> str:
        return f"column {self.column}: {self.problem}"


Encoder = Callable[[Any, Column], str]


def _plain(value: Any, _column: Column) -> str:
    return str(value)


def _isoformat(value: Any, _column: Column) -> str:
    text: str = value.isoformat()
    return text


def _datetime(value: datetime, column: Column) -> str:
    if (value.tzinfo is not None) != (column.kind is Kind.TIMESTAMPTZ):
        has = "a" if value.tzinfo else "no"
        raise Unfit(column.name, f"a datetime with {has} time zone does not fit the type {column.type}")
    return value.isoformat()


def _time(value: time, column: Column) -> str:
    if (value.tzinfo is not None) != ("with time zone" in column.plain_type):
        has = "a" if value.tzinfo else "no"
        raise Unfit(column.name, f"a time with {has} time zone does not fit the type {column.type}")
    return value.isoformat()


def _timedelta(value: timedelta, _column: Column) -> str:
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"


def _json(value: Any, column: Column) -> str:
    try:
        return _encode_json(value).decode()
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


def _array(value: list[Any], column: Column) -> str:
    if column.limited is not None:
        _check_lengths(value, column, *column.limited)
    element = msgspec.structs.replace(column, kind=column.element or Kind.OTHER, type=column.type.removesuffix("[]"))
    return array_text(value, element)


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
    bool: {Kind.BOOL: lambda value, _: "t" if value else "f", Kind.JSON: _json},
    int: {**dict.fromkeys(_NUMBERS, _plain), Kind.JSON: _json},
    float: {**dict.fromkeys(_NUMBERS, lambda value, _: repr(value)), Kind.JSON: _json},
    Decimal: {**dict.fromkeys(_NUMBERS, _plain), Kind.JSON: _json},
    str: {kind: _plain for kind in Kind if kind is not Kind.BYTES} | {Kind.JSON: _json},
    bytes: {Kind.BYTES: lambda value, _: "\\x" + value.hex()},
    datetime: {Kind.TIMESTAMPTZ: _datetime, Kind.TIMESTAMP: _datetime},
    date: {Kind.DATE: _isoformat},
    time: {Kind.TIME: _time},
    timedelta: {Kind.INTERVAL: _timedelta},
    UUID: {Kind.OTHER: _plain},
    list: {Kind.ARRAY: _array, Kind.JSON: _json},
    dict: {Kind.JSON: _json},
}


def text_of(value: Any, column: Column) -> str:
    """The text of a value that is not None, for ``column``.

    Raises:
        Unfit: the column's type cannot take a value of this type without changing it.
    """
    encode = _ENCODERS[type(value)].get(column.kind)
    if encode is None:
        raise Unfit(column.name, f"a {type(value).__qualname__} does not fit the type {column.type}")
    return encode(value, column)


_COPY_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def copy_rows(rows: Iterable[Iterable[str | None]]) -> bytes:
    """Rows of texts (``None``: NULL) in COPY's text format."""
    return "".join(["\t".join(map(_copy_text, row)) + "\n" for row in rows]).encode()


def _copy_text(text: str | None) -> str:
    if text is None:
        return "\\N"
    # nothing in an alphanumeric text has to be escaped, and asking is much cheaper than translating
    return text if text.isalnum() else text.translate(_COPY_ESCAPES)
