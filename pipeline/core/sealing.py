"""Many changes sealed at once: whole columns are looked at, where `pipeline.core.change.seal` looks at one change.

What there is to say of a change besides its values is its form. Many changes have few forms, so each form is judged
once; and of the values it is their types. A change that is not as nearly all are is left to ``seal``, which finds out
whether it is good, and what is wrong with it otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from math import isfinite
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from pipeline.core.change import INCREMENTS, MAX_IDENTITY, Change
from pipeline.core.codec import json_texts
from pipeline.core.names import MAX_NAME_BYTES, canonical_table
from pipeline.core.values import AS_IN_JSON, identities, identity, to_wire

__all__ = ["Sealed", "seal_all"]

_KNOWN_FORMS: Final = 256
"""That are remembered: a caller may make names up, and that must not cost memory."""

_LONG: Final = 4000
"""Characters of a change as JSON. An integer with more digits than are allowed makes it longer; few are so."""

_SINGLE: Final = frozenset({str, int, float, bool, bytes, datetime, date, time, timedelta, Decimal, UUID})

_NUL: Final = "\\u0000"
"""In JSON; also behind a backslash, where it is none."""

_Columns = dict[str, Any]
_Names = tuple[str, ...]
_Form = tuple[_Names, _Names, _Names, _Names, _Names, _Names, bool, bool]
"""The names of the columns of all parts, and whether it is a delete, an insert."""

_NOTHING: Final[dict[str, Any]] = {}
_FIELDS: Final = [attrgetter(field) for field in Change.__struct_fields__]


class Sealed(NamedTuple):
    """Changes that are good: of each the table, the identity of its row (``None``: an insert), and itself as JSON."""

    tables: Sequence[str]
    identities: Sequence[str | None]
    kwargs: Sequence[str]


def seal_all(changes: Sequence[object]) -> Sealed | None:
    """What ``seal`` makes of each of ``changes``; ``None``: it has to be asked.

    Raises:
        InvalidEvent, ValueError, TypeError: one of them is not good; ``seal`` has to be asked which one, and why.
    """
    if set(map(type, changes)) != {Change}:
        return None
    tables, keys, sets, adds, maxs, mins, deletes, inserts = (list(map(field, changes)) for field in _FIELDS)
    rows = [_NOTHING if insert is None else insert for insert in inserts]
    parts = [keys, sets, adds, maxs, mins, rows]
    if not (_all_are({str}, tables) and _all_are({dict}, chain(*parts)) and _all_are({bool}, deletes)):
        return None
    forms = _forms(parts, deletes, [insert is not None for insert in inserts])
    if not all(map(_is_good, forms)):
        return None
    values = _values(*parts)
    if not (_are_finite(values) and _all_are(INCREMENTS, _values(adds)) and _all_are(_SINGLE, _values(maxs, mins))):
        return None
    if not _all_are(AS_IN_JSON, values):
        parts = [part if _all_are(AS_IN_JSON, _values(part)) else list(map(_wire, part)) for part in parts]
        inserts = [None if insert is None else row for insert, row in zip(inserts, parts[5], strict=True)]
    spelled = {table: canonical_table(table) for table in set(tables)}
    tables = [spelled[table] for table in tables]
    kwargs = json_texts(map(Change, tables, *parts[:5], deletes, inserts))
    found = _identities(keys, {key for key, *_ in forms})
    return None if _are_odd(found, kwargs) else Sealed(tables, found, kwargs)


def _forms(parts: Sequence[Sequence[_Columns]], deletes: Sequence[bool], are_inserts: Sequence[bool]) -> set[_Form]:
    every: list[set[Any]] = [set(map(tuple, part)) if any(part) else {()} for part in parts]
    every += [set(deletes), set(are_inserts)]
    if all(len(different) == 1 for different in every):  # else it has to be seen which ones come together
        return {next(zip(*every, strict=True))}
    return set(zip(*(map(tuple, part) for part in parts), deletes, are_inserts, strict=True))


def _all_are(kinds: AbstractSet[object], values: Iterable[object]) -> bool:
    return kinds >= set(map(type, values))


@lru_cache(maxsize=_KNOWN_FORMS)
def _is_good(form: _Form) -> bool:
    """Whether a change of this form is good, whatever its values are."""
    key, set_, add, max_, min_, row, is_delete, is_insert = form
    operands = (*set_, *add, *max_, *min_)
    has_one_form = not (key or operands or is_delete) if is_insert else bool(key) and not (is_delete and operands)
    names = (*key, *operands, *row)
    return has_one_form and len(set(names)) == len(names) and all(map(_is_name, names))


def _is_name(name: object) -> bool:
    return type(name) is str and 0 < len(name) <= MAX_NAME_BYTES and name.isascii() and "\x00" not in name


def _values(*parts: Sequence[_Columns]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, filter(None, chain(*parts)))))


def _are_finite(values: Sequence[object]) -> bool:
    return all(isfinite(value) for value in values if type(value) is float)


def _wire(columns: _Columns) -> _Columns:
    """As `seal` does it, where the names are good."""
    return {name: value if type(value) in AS_IN_JSON else to_wire(value) for name, value in columns.items()}


def _identities(keys: Sequence[_Columns], names: Collection[_Names]) -> Sequence[str | None]:
    """``names`` are all that a key has."""
    if len(names) > 1 or () in names:
        return [identity(key) if key else None for key in keys]
    return identities({name: [key[name] for key in keys] for name in keys[0]})


def _are_odd(found: Sequence[str | None], kwargs: Sequence[str]) -> bool:
    """Whether one of the keys is too long, an integer may be, or a text may have a NUL."""
    return (
        max(map(len, kwargs)) > _LONG
        or any(name is not None and len(name) > MAX_IDENTITY for name in found)
        or any(_NUL in text for text in kwargs)
    )
