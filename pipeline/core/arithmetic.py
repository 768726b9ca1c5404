"""What Python can know about values of a column: sums and orders that are exactly those of PostgreSQL. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Context, Decimal, Inexact, Rounded
from math import isfinite
from typing import Any, Final

from pipeline.core.table import Column, Kind

__all__ = ["comparable", "total"]

_EXACT: Final = Context(prec=1000, traps=[Inexact, Rounded])
_FLOAT_EXACT_INT: Final = 2**53


def total(x: Any, y: Any, column: Column) -> Any:  # noqa: PLR0911 (one return per family of types reads best)
    """``x + y`` as the column would compute it, or ``None`` if that cannot be known here."""
    match column.kind:
        case Kind.INTEGER:
            if type(x) is not int or type(y) is not int:
                return None
            fits = column.low <= x <= column.high and column.low <= y <= column.high
            return x + y if fits and column.low <= x + y <= column.high else None
        case Kind.DECIMAL:
            a, b = _as_decimal(x), _as_decimal(y)
            if a is None or b is None or not (_within_scale(a, column.scale) and _within_scale(b, column.scale)):
                return None
            try:
                return _EXACT.add(a, b)
            except (Inexact, Rounded):
                return None
        case Kind.FLOAT:
            # addition of floats is not associative anywhere; the sum is as good as PostgreSQL's own, to the last bit
            # or so
            left, right = _as_float(x), _as_float(y)
            return None if left is None or right is None or not isfinite(left + right) else left + right
        case Kind.INTERVAL:
            # a precision (interval(0)) or fields (interval hour) round at every step, as those of a domain may
            if type(x) is not timedelta or type(y) is not timedelta or column.type != column.plain_type:
                return None
            try:
                both = x + y
            except OverflowError:
                return None
            # PostgreSQL adds days and microseconds apart; so does timedelta, as long as nothing is carried over
            return both if both.days == x.days + y.days else None
        case _:
            return None


def _as_decimal(value: Any) -> Decimal | None:
    if type(value) is Decimal:
        return value
    if type(value) is int:
        return Decimal(value)
    return Decimal(repr(value)) if type(value) is float else None


def _within_scale(value: Decimal, scale: int | None) -> bool:
    if scale is None:
        return True
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -scale and scale >= 0


def _as_float(value: Any) -> float | None:
    if type(value) is float:
        return value
    if type(value) is int and abs(value) <= _FLOAT_EXACT_INT:
        return float(value)
    return float(value) if type(value) is Decimal and abs(value.adjusted()) < 300 else None  # noqa: PLR2004


def comparable(x: Any, y: Any, column: Column) -> bool:  # noqa: PLR0911
    """Whether Python orders ``x`` and ``y`` as the column's type does."""
    match column.kind:
        case Kind.INTEGER:
            return type(x) is int and type(y) is int
        case Kind.DECIMAL:
            return type(x) in {int, Decimal} and type(y) in {int, Decimal}
        case Kind.FLOAT:
            return _as_float(x) is not None and _as_float(y) is not None and type(x) is not Decimal is not type(y)
        case Kind.TIMESTAMPTZ:
            return type(x) is type(y) is datetime and x.tzinfo is not None and y.tzinfo is not None
        case Kind.TIMESTAMP:
            return type(x) is type(y) is datetime and x.tzinfo is None and y.tzinfo is None
        case Kind.DATE:
            return type(x) is type(y) is date
        case _:
            return False
