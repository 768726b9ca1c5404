"""The entries of a batch, by columns: a thousand changes that are alike are a few columns, not a thousand objects.

What a flush does to an ordinary event, from its message to COPY and to its acknowledgement, it does to columns. An
`Event` is only made where somebody asks for a single one: to find out which one is bad, say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple, overload

from pipeline.core.change import Change, Event
from pipeline.core.codec import Malformed
from pipeline.core.values import Value

__all__ = ["Block", "Entries", "Events", "Form", "Placed", "block_of"]


class Form(NamedTuple):
    """What changes have in common besides their values: the table, and which columns are named in which part."""

    table: str
    key: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    max: tuple[str, ...] = ()
    min: tuple[str, ...] = ()
    delete: bool = False
    insert: tuple[str, ...] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the key, set, add, max and min, or those of an insert."""
        return (*self.key, *self.set, *self.add, *self.max, *self.min, *(self.insert or ()))

    def change(self, values: Sequence[Value]) -> Change:
        """The change of this form with these values, in the order of ``columns``."""
        found = iter(values)
        key, set_, add, max_, min_, row = (
            dict(zip(names, found, strict=False))
            for names in (self.key, self.set, self.add, self.max, self.min, self.insert or ())
        )
        return Change(self.table, key, set_, add, max_, min_, self.delete, None if self.insert is None else row)


class Block(NamedTuple):
    """Changes of one form. ``columns`` has their values, each column those of one change after the other.

    ``kinds`` are the types that may be in each column, ``names`` the identities of the keys, ``None`` for inserts.
    """

    form: Form
    columns: Sequence[Sequence[Value]]
    kinds: Sequence[frozenset[type]]
    size: int
    names: Sequence[str] | None

    def changes(self) -> list[Change]:
        """The changes, one by one."""
        if not self.columns:
            return [self.form.change(()) for _ in range(self.size)]
        return list(map(self.form.change, zip(*self.columns, strict=True)))


def block_of(form: Form, columns: Sequence[Sequence[Value]], size: int, names: Sequence[str] | None = None) -> Block:
    """A block of which the types are not known yet."""
    return Block(form, columns, [frozenset(map(type, values)) for values in columns], size, names)


Placed = tuple[Block, Sequence[int]]
"""A block, and the positions of its changes in their batch, ascending."""


class Entries(Sequence[Event | Malformed]):
    """What the messages of a batch say, in their order.

    ``blocks`` has what is ordinary: events of a single change that the write script has accepted. ``others`` has the
    rest, by position. ``ids`` ("" where there is none), ``numbers`` (``seq``) and ``accepted_ms`` are of all entries.
    """

    def __init__(
        self,
        messages: Sequence[bytes],
        ids: Sequence[str],
        numbers: Sequence[int | None],
        accepted_ms: Sequence[int | None],
        *,
        blocks: Sequence[Placed] = (),
        others: Mapping[int, Event | Malformed],
    ) -> None:
        self.messages = messages
        self.ids = ids
        self.numbers = numbers
        self.accepted_ms = accepted_ms
        self.blocks = blocks
        self.others = others
        self._made: list[Event | Malformed] = []

    @classmethod
    def of(cls, entries: Sequence[Event | Malformed]) -> Entries:
        """``entries``, of which nothing is known to be ordinary unless they are known already."""
        if isinstance(entries, Entries):
            return entries
        return cls(
            [entry.raw for entry in entries],
            [entry.id or "" for entry in entries],
            [entry.seq for entry in entries],
            [entry.accepted_ms for entry in entries],
            others=dict(enumerate(entries)),
        )

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, index: int) -> Event | Malformed: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Event | Malformed]: ...

    def __getitem__(self, index: int | slice) -> Event | Malformed | Sequence[Event | Malformed]:
        other = None if isinstance(index, slice) else self.others.get(index)
        return self._every()[index] if other is None else other

    def __iter__(self) -> Iterator[Event | Malformed]:
        return iter(self._every())

    @property
    def tables(self) -> set[str]:
        """The tables of all changes, as these spell them."""
        return _tables(self.blocks, self.others.values())

    def rows(self) -> list[str | None]:
        """The row of each ordinary event, as ``table:identity``; ``None`` for inserts, and for what is not ordinary."""
        if len(self.blocks) == 1 and not self.others:
            return _rows(self.blocks[0][0])
        rows: list[str | None] = [None] * len(self)
        for block, positions in self.blocks:
            for position, row in zip(positions, _rows(block), strict=True):
                rows[position] = row
        return rows

    def with_others(self, others: Mapping[int, Event | Malformed]) -> Entries:
        """The same entries, but for those that are not ordinary."""
        return Entries(self.messages, self.ids, self.numbers, self.accepted_ms, blocks=self.blocks, others=others)

    def events(self, positions: Sequence[int]) -> Events:
        """The entries at ``positions``, all of which are events, in that order."""
        others = {at: entry for at, entry in self.others.items() if isinstance(entry, Event)}
        if positions != range(len(self)):
            missing = set(range(len(self))).difference(positions)
            others = {at: entry for at, entry in others.items() if at not in missing}
            if not missing <= self.others.keys() or positions != sorted(positions):
                return Events.of([entry for at in positions if isinstance(entry := self[at], Event)])
        return Events(self.blocks, others, lambda: [entry for at in positions if isinstance(entry := self[at], Event)])

    def _every(self) -> list[Event | Malformed]:
        """Made when somebody asks for one of them; from then on they are always the same."""
        if not self._made:
            made = dict(self.others)
            for block, positions in self.blocks:
                names: Sequence[str | None] = block.names or [None] * block.size
                for at, change, name in zip(positions, block.changes(), names, strict=True):
                    message, seq, accepted_ms = self.messages[at], self.numbers[at], self.accepted_ms[at]
                    made[at] = Event(self.ids[at], (change,), (name,), message, seq, accepted_ms)
            self._made = [made[position] for position in range(len(self))]
        return self._made


class Events(Sequence[Event]):
    """Events that are to be written, in their order: as in `Entries`, ``blocks`` of ordinary ones and ``others``."""

    def __init__(
        self, blocks: Sequence[Placed], others: Mapping[int, Event], every: Callable[[], Sequence[Event]]
    ) -> None:
        """``every`` gives all of them one by one; it is called when that is needed."""
        self.blocks = blocks
        self.others = others
        self._every = cache(every)

    @classmethod
    def of(cls, events: Sequence[Event]) -> Events:
        """``events``, of which nothing is known to be ordinary unless they are known already."""
        return events if isinstance(events, Events) else cls((), dict(enumerate(events)), lambda: events)

    def __len__(self) -> int:
        return sum(block.size for block, _ in self.blocks) + len(self.others)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        return self._every()[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._every())

    @property
    def tables(self) -> set[str]:
        """The tables of all changes, as these spell them."""
        return _tables(self.blocks, self.others.values())


def _tables(blocks: Iterable[Placed], others: Iterable[Event | Malformed]) -> set[str]:
    of_others = {change.table for entry in others if isinstance(entry, Event) for change in entry.changes}
    return {block.form.table for block, _ in blocks} | of_others


def _rows(block: Block) -> list[str | None]:
    if block.names is None:
        return [None] * block.size
    prefix = f"{block.form.table}:"
    return [prefix + name for name in block.names]
