"""What a column value may be, how it travels as JSON, and how a key is identified.

JSON has no dates, decimals, UUIDs or bytes. They travel as the tagged objects of kombu's JSON serializer
(``{"__type__": "datetime", "__value__": "…"}``), so that an event published by any Celery client and an event
published by this package look the same, and a stock worker decodes both. ``timedelta`` is our addition
(``"timedelta"``, total microseconds); `pipeline.contrib.celery` teaches it to kombu.

Nothing is converted silently: a value that JSON or PostgreSQL could not give back as it was is refused with
`InvalidEvent`. An ``Enum`` member stands for its value.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from pipeline.errors import InvalidEvent

__all__ = [
    "AS_IN_JSON",
    "Columns",
    "Value",
    "column_from_wire",
    "from_wire",
    "identities",
    "identity",
    "key_texts",
    "timedelta_us",
    "to_wire",
    "travels_as_it_is",
    "untagged",
]

type_names: Final = (
    "None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID, Enum, list, dict"
)

Value = Any
"""One of ``None, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID``, or a list or dict of
them. (A recursive union would be truer and helps no type checker with data that arrives as JSON.)"""

Columns = Mapping[str, Value]

_TAG_KEYS: Final = {"__type__", "__value__"}
_MAX_DEPTH: Final = 64  # of lists and dicts; Postgres' json parser and ours both end somewhere behind it
_MAX_BITS: Final = 14_000  # of an integer, 4,214 digits: Python makes text of no more than 4,300
_GLANCE: Final = 2**63  # an integer that Python compares quickly
_MAX_KEY_DIGITS: Final = 1000  # on either side of the point of a Decimal: an exponent must not cost memory


def timedelta_us(value: timedelta) -> int:
    """The whole duration in microseconds, exactly (``total_seconds()`` is a float and is not exact)."""
    return (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds


def _tag(name: str, value: object) -> dict[str, object]:
    return {"__type__": name, "__value__": value}


def _bytes_to_wire(value: bytes) -> dict[str, object]:
    try:
        return _tag("bytes", value.decode("utf-8"))
    except UnicodeDecodeError:
        return _tag("base64", base64.b64encode(value).decode("ascii"))


def _str_to_wire(value: str) -> str:
    if "\x00" in value:
        raise InvalidEvent("text contains a NUL character, which PostgreSQL cannot store; use bytes and a bytea column")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidEvent(f"text contains a lone surrogate at index {error.start}, which is not Unicode") from None
    return str.__str__(value)  # also of a subclass that shows itself as something else


def _time_to_wire(value: time) -> dict[str, object]:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise InvalidEvent(f"a time of day has no offset in {value.tzinfo}, only a datetime has; give a fixed offset")
    return _tag("time", value.isoformat())


def _int_to_wire(value: int) -> int:
    if value.bit_length() > _MAX_BITS:
        raise InvalidEvent("an integer of more than 4,000 digits, which JSON parsers refuse")
    return int(value)


def _float_to_wire(value: float) -> float:
    if not math.isfinite(value):
        raise InvalidEvent(
            f"{value} is not a number that JSON can carry; use None, or the text {str(value)!r} "
            "if the column is real, double precision or numeric"
        )
    return float(value)


def _decimal_to_wire(value: Decimal) -> dict[str, object]:
    if not value.is_finite():
        raise InvalidEvent(f"Decimal {value} is not finite; use None, or the text {str(value)!r} for a numeric column")
    return _tag("decimal", str(value))


_ENCODERS: Final[dict[type, Callable[[Any], object]]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: _int_to_wire,
    float: _float_to_wire,
    str: _str_to_wire,
    datetime: lambda value: _tag("datetime", value.isoformat()),
    date: lambda value: _tag("date", value.isoformat()),
    time: _time_to_wire,
    timedelta: lambda value: _tag("timedelta", timedelta_us(value)),
    Decimal: _decimal_to_wire,
    UUID: lambda value: _tag("uuid", {"hex": value.hex}),
    bytes: _bytes_to_wire,
    bytearray: lambda value: _bytes_to_wire(bytes(value)),
    memoryview: lambda value: _bytes_to_wire(bytes(value)),
}


def travels_as_it_is(value: Value) -> bool:
    """Whether `to_wire` returns ``value`` itself, as far as that is seen at a glance; nearly all values are so."""
    kind = type(value)
    if kind is int:
        return bool(-_GLANCE < value < _GLANCE)
    if kind is str:
        return value.isascii() and "\x00" not in value
    return kind is float and math.isfinite(value)


def to_wire(value: Value, depth: int = 0) -> Any:
    """The JSON form of ``value``.

    Raises:
        InvalidEvent: the value cannot be carried faithfully; the message says why and what to use instead.
    """
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Enum):
        return to_wire(value.value, depth)
    if depth >= _MAX_DEPTH:
        raise InvalidEvent(f"lists and dicts are nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        return [to_wire(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return _dict_to_wire(value, depth)
    for base in type(value).__mro__[1:]:  # subclasses of str, int, datetime …, e.g. a framework's safe string
        encode = _ENCODERS.get(base)
        if encode is not None:
            return encode(value)
    raise InvalidEvent(f"a value of type {type(value).__qualname__} cannot be stored; use one of {type_names}")


def _dict_to_wire(value: dict[Any, Value], depth: int) -> dict[str, Any]:
    if value.keys() == _TAG_KEYS:
        raise InvalidEvent("a dict of just __type__ and __value__ is how typed values travel, and cannot be stored")
    wire = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise InvalidEvent(f"dict keys must be text, not {type(name).__qualname__}: JSON has no others")
        wire[_str_to_wire(name)] = to_wire(item, depth + 1)
    return wire


_DECODERS: Final[dict[str, tuple[type, Callable[[Any], Value]]]] = {
    "datetime": (str, datetime.fromisoformat),
    # kombu decodes a date through datetime, so a client may have sent one with a time of midnight
    "date": (str, lambda text: datetime.fromisoformat(text).date()),
    "time": (str, time.fromisoformat),
    "timedelta": (int, lambda us: timedelta(microseconds=us)),
    "decimal": (str, Decimal),
    "uuid": (dict, lambda parts: UUID(hex=parts["hex"])),
    "bytes": (str, lambda text: text.encode("utf-8")),
    "base64": (str, lambda text: base64.b64decode(text, validate=True)),
}
"""Tag → (type of the payload, decoder)."""


def from_wire(value: Any, depth: int = 0) -> Value:
    """The value whose JSON form is ``value``; the inverse of `to_wire`, strict about what it accepts.

    Raises:
        InvalidEvent: an unknown or ill-formed tagged value, a NUL in text, or too deep nesting.
    """
    kind = type(value)
    if kind is str and "\x00" in value:
        raise InvalidEvent("text contains a NUL character, which PostgreSQL cannot store")
    if kind is not dict and kind is not list:
        return value
    if depth >= _MAX_DEPTH:
        raise InvalidEvent(f"lists and dicts are nested more than {_MAX_DEPTH} deep")
    if kind is list:
        return [from_wire(item, depth + 1) for item in value]
    if len(value) == len(_TAG_KEYS) and "__type__" in value and "__value__" in value:
        return untagged(value["__type__"], [value["__value__"]])[0]
    return {from_wire(name): from_wire(item, depth + 1) for name, item in value.items()}


AS_IN_JSON: Final = frozenset({int, float, bool, str, type(None)})
"""Types of values that travel as JSON has them, if a text has no NUL and a number is one."""


def column_from_wire(values: Sequence[Any]) -> tuple[Sequence[Value], frozenset[type]]:
    """`from_wire` of each of ``values`` (they themselves if that changes none of them), and what types these are of.

    Raises:
        InvalidEvent: as `from_wire`, for any of those that are wrong.
    """
    kinds = frozenset(map(type, values))
    if kinds <= AS_IN_JSON and (str not in kinds or "\x00" not in "".join([v for v in values if type(v) is str])):
        return values, kinds
    decoded = _column_from_wire(values, kinds)
    return decoded, frozenset(map(type, decoded))


def _column_from_wire(values: Sequence[Any], kinds: frozenset[type]) -> Sequence[Value]:
    if kinds == {dict} and set(map(len, values)) == {len(_TAG_KEYS)}:
        try:
            names = [value["__type__"] for value in values]
            payloads = [value["__value__"] for value in values]
        except KeyError:  # of a dict that is no tagged value
            pass
        else:
            if names.count(names[0]) == len(names):
                return untagged(names[0], payloads)
    if type(None) in kinds:
        present = iter(column_from_wire([value for value in values if value is not None])[0])
        return [None if value is None else next(present) for value in values]
    return [from_wire(value) for value in values]


def untagged(name: object, payloads: Sequence[object]) -> list[Value]:
    """The values in tagged objects, all of them with this tag.

    Raises:
        InvalidEvent: as `from_wire`, for any of those that are wrong.
    """
    known = _DECODERS.get(name) if isinstance(name, str) else None
    if known is None:
        raise InvalidEvent(f"a value of the unknown type {name!r:.80}")
    form, decode = known
    if other := set(map(type, payloads)) - {form}:
        raise InvalidEvent(f"an ill-formed {name}: a {other.pop().__qualname__}, not a {form.__qualname__}")
    try:
        decoded = list(map(decode, payloads))
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise InvalidEvent(f"an ill-formed {name}: {error!s:.200}") from error
    if name == "decimal" and (infinite := [value for value in decoded if not value.is_finite()]):
        raise InvalidEvent(f"Decimal {infinite[0]} is not finite")
    return decoded


# --- keys -------------------------------------------------------------------------------------------------------------

_KNOWN_NAMES: Final = 256
"""Column names of keys whose form is remembered: a table has few keys, and a stranger's names must not cost memory."""

_QUOTED: Final = (("&", "%26"), ("=", "%3D"), (":", "%3A"), ("%", "%25"))  # the last is unquoted last
_QUOTE: Final = str.maketrans(dict(_QUOTED))


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite() or max(value.adjusted(), -int(value.as_tuple().exponent)) > _MAX_KEY_DIGITS:
        raise InvalidEvent("such a Decimal cannot identify a row")
    # normalize() would round to the context's precision; stripping the zeros is exact
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in {"-0", ""} else text


def _datetime_text(value: datetime) -> str:
    try:
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat()
    except OverflowError:  # within a day of the ends of the calendar UTC may have no such moment
        return value.isoformat()


_KEY_TEXT: Final[dict[type, Callable[[Any], str]]] = {
    str: str.__str__,  # also of a subclass that shows itself as something else
    int: lambda value: str(_int_to_wire(value)),
    bool: lambda value: "true" if value else "false",
    UUID: str,
    Decimal: _decimal_text,
    datetime: _datetime_text,
    date: date.isoformat,
    time: time.isoformat,
    bytes: lambda value: "\\x" + value.hex(),
}


def identity(key: Columns) -> str:
    """The one text that stands for a row key, whatever the order of its columns.

    ``{"user_id": 3, "sku": "A1"}`` is ``"sku=A1&user_id=3"``. A value and its text form (``7`` and ``"7"``, a UUID and
    its text) have the same identity, because PostgreSQL would find the same row. Everything that must agree on what
    a key is (the shard, the overlay, the row cache, the fold) uses this text.

    Raises:
        InvalidEvent: a value that cannot identify a row (NULL, float, list, dict, timedelta).
    """
    parts = []
    for name, label in _labels(tuple(key)):
        value = key[name]
        kind = type(value)
        if kind is int and -_GLANCE < value < _GLANCE:  # nearly every key is such a number, or such a text
            parts.append(f"{label}{value}")
        elif kind is str and value.isalnum():
            parts.append(label + value)
        else:
            parts.append(label + _key_text(name, value))
    return "&".join(parts)


def identities(key: Mapping[str, Sequence[Value]], small: Collection[str] = ()) -> list[str]:
    """`identity` of each of many keys; ``key`` has the values of all of them, column by column.

    The columns in ``small`` are known to have integers of 64 bits.
    """
    labels = _labels(tuple(key))
    columns = [key[name] if name in small else _key_texts(name, key[name]) for name, _ in labels]
    if len(labels) == 1:
        label = labels[0][1]
        return [f"{label}{text}" for text in columns[0]]
    form = "&".join([label.replace("%", "%%") + "%s" for _, label in labels])
    return list(map(form.__mod__, zip(*columns, strict=True)))


def _key_texts(name: str, values: Sequence[Value]) -> Sequence[object]:
    """What stands for ``values`` in identities: itself or its ``str``."""
    kinds = set(map(type, values))
    if kinds == {int} and min(values) > -_GLANCE and max(values) < _GLANCE:
        return values
    if kinds == {str} and "".join(values).isalnum():
        return values
    return [_key_text(name, value) for value in values]


@lru_cache(maxsize=_KNOWN_NAMES)
def _labels(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The columns of a key in the order of their names, each with what its value stands behind."""
    return [(name, _quoted(name) + "=") for name in sorted(names)]


def _quoted(text: str) -> str:
    # nothing in an identifier or in an alphanumeric text has to be quoted, and asking is much cheaper than translating
    return text if text.isalnum() or text.isidentifier() else text.translate(_QUOTE)


def _key_text(name: str, value: Value) -> str:
    if type(value) is int and -_GLANCE < value < _GLANCE:
        return str(value)
    as_text = _KEY_TEXT.get(type(value))
    if as_text is None:
        if isinstance(value, Enum):
            return _key_text(name, value.value)
        for base in type(value).__mro__:
            if base in _KEY_TEXT:
                as_text = _KEY_TEXT[base]
                break
        else:
            what = "NULL" if value is None else f"a {type(value).__qualname__}"
            raise InvalidEvent(f"{what} cannot identify a row", column=name)
    try:
        return _quoted(as_text(value))
    except InvalidEvent as error:
        raise InvalidEvent(error.problem, column=name) from None


def key_texts(identity: str) -> dict[str, str]:
    """The columns of a key and the texts of their values, out of its `identity`.

    Raises:
        ValueError: no key has this identity.
    """
    texts = {}
    for part in identity.split("&"):
        name, equals, value = part.partition("=")
        if not equals or "=" in value:
            raise ValueError("not the identity of a row")
        texts[_unquoted(name)] = _unquoted(value)
    return texts


def _unquoted(text: str) -> str:
    for char, quoted in _QUOTED:
        text = text.replace(quoted, char)
    return text
