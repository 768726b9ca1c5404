"""Names of tables as SQL spells them, of which one table has but one here. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pipeline.errors import InvalidEvent

__all__ = ["MAX_NAME_BYTES", "TableNames", "canonical_table"]

_PART: Final = r'(?:[^\W\dA-Z][\w$]*|"(?:[^"\x00\ud800-\udfff]|"")+")'
_TABLE: Final = re.compile(rf"{_PART}(?:\.{_PART})?")
_PARTS: Final = re.compile(_PART)
_NEEDLESS_QUOTES: Final = re.compile(r'(?<!")"([a-z_][a-z0-9_$]*)"(?!")')  # a quote inside of a name is doubled
MAX_NAME_BYTES: Final = 63
"""Of a table or a column: no longer name exists, and SQL would silently mean another one."""

_SHORT: Final = MAX_NAME_BYTES // 4  # characters that fit, whatever they are


@lru_cache(maxsize=4096)
def canonical_table(table: str) -> str:
    """``table`` with needless quotes removed, so that one table has one spelling.

    Raises:
        InvalidEvent: not a name as SQL spells it, or capitals without quotes, which SQL would fold to lower case.
    """
    if not _TABLE.fullmatch(table):
        raise InvalidEvent(
            'not a table name; spell it as in SQL: page_views, shop.orders, "Order" (capitals and spaces need quotes)',
            table=table[:200],
        )
    if len(table) > _SHORT and any(len(_unquoted(part).encode()) > MAX_NAME_BYTES for part in _PARTS.findall(table)):
        raise InvalidEvent(f"a name of more than {MAX_NAME_BYTES} bytes, which PostgreSQL cuts off", table=table[:200])
    name = _NEEDLESS_QUOTES.sub(r"\1", table)
    if name != name.lower() and any(part != part.lower() for part in re.sub(r'"(?:[^"]|"")+"', "", name).split(".")):
        raise InvalidEvent('SQL folds capitals outside of quotes; spell the table as "Order" or in lower case', table)
    return name


def _unquoted(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


class TableNames:
    """Tables that are found under their other spelling, too: without a schema, those of every schema are meant.

    That may be one too many, for settings that forbid something; one too few would be worse.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(map(canonical_table, names))
        self._bare = frozenset(name for name in self._names if _bare(name) == name)
        self._qualified = frozenset(_bare(name) for name in self._names - self._bare)

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, table: str) -> bool:
        """``table`` as `canonical_table` spells it."""
        if not self._names:
            return False
        bare = _bare(table)
        return table in self._names or bare in self._bare or (bare == table and bare in self._qualified)


def _bare(table: str) -> str:
    """The name without its schema."""
    last: str = _PARTS.findall(table)[-1]
    return last
