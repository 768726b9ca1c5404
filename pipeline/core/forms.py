"""Forms of changes that were seen before: whoever knows the columns decodes a change without a dict for them.

msgspec decodes an object whose fields it knows in half the time, and refuses what has others. So the change of a known
form becomes a small struct, and many of them become columns without a look at their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from types import NoneType
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from pipeline.core.entries import Block, Form
from pipeline.core.values import AS_IN_JSON, Value, column_from_wire, untagged

__all__ = ["Embed", "Known", "decoder_of", "known"]

MOST_COLUMNS: Final = 200
"""A form with more is not remembered: making its type takes a while, and few tables have so many."""

_UNTAGGED: Final = AS_IN_JSON | {list, dict}


class _Tagged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    type: str = msgspec.field(name="__type__")
    value: Any = msgspec.field(name="__value__")


class _NoTable(msgspec.Struct, tag_field="table", tag="", gc=False):
    """msgspec insists on the tag only where there is a choice."""


class Embed(msgspec.Struct, frozen=True, gc=False):
    """What Celery would do after the task. Nothing of it matters here."""


class Known(NamedTuple):
    """A form, and the type that its changes are decoded to; ``parts`` of these have the values of its columns.

    ``tagged`` says of each column whether its values travel as tagged objects (or are None).
    """

    form: Form
    of_change: type[msgspec.Struct]
    parts: Sequence[Callable[[Any], Any]]
    tagged: Sequence[bool]

    def columns(self, changes: Sequence[Any]) -> tuple[Sequence[Sequence[Value]], Sequence[frozenset[type]]]:
        """The values of many changes, column by column, and their types.

        Raises:
            InvalidEvent: some of them are wrong.
        """
        columns: list[Sequence[Value]] = []
        kinds: list[frozenset[type]] = []
        wire = (column for part in self.parts for column in zip(*map(astuple, map(part, changes)), strict=True))
        for values, is_tagged in zip(wire, self.tagged, strict=True):
            decoded, types = _untagged(values) if is_tagged else column_from_wire(values)
            columns.append(decoded)
            kinds.append(types)
        return columns, kinds


def _untagged(values: Sequence[_Tagged | None]) -> tuple[Sequence[Value], frozenset[type]]:
    present = [value for value in values if value is not None]
    decoded = untagged([value.type for value in present], [value.value for value in present])
    if len(present) < len(values):
        found = iter(decoded)
        decoded = [None if value is None else next(found) for value in values]
    return decoded, frozenset(map(type, decoded))


def known(block: Block) -> Known | None:
    """What is to be remembered of a block's form, ``None`` if nothing is."""
    form = block.form
    if not 0 < len(form.columns) <= MOST_COLUMNS or form.delete:
        return None
    tagged = [not kinds <= {NoneType} and kinds.isdisjoint(_UNTAGGED) for kinds in block.kinds]
    types = iter(_Tagged | None if is_tagged else Any for is_tagged in tagged)
    parts: dict[str, type[msgspec.Struct]] = {}
    for part in ("key", "set", "add", "max", "min", "insert"):
        if names := getattr(form, part):
            fields = [(f"c{at}", next(types), msgspec.field(name=name)) for at, name in enumerate(names)]
            parts[part] = msgspec.defstruct(part, fields, frozen=True, forbid_unknown_fields=True, gc=False)
    of_change = msgspec.defstruct(
        "change", parts.items(), frozen=True, forbid_unknown_fields=True, gc=False, tag_field="table", tag=form.table
    )
    return Known(form, of_change, list(map(attrgetter, parts)), tagged)


def decoder_of(types: Iterable[type[msgspec.Struct]]) -> Callable[[str], tuple[object, Any, object]]:
    """Decodes the body of a message with a change of one of these types; raises `ValueError` for any other."""
    choice: Any = _NoTable
    for each in types:
        choice |= each
    return msgspec.json.Decoder(tuple[tuple[()], choice, Embed]).decode
