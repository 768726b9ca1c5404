"""The fold of a batch, in which ordinary changes stay columns: nearly always there is nothing to fold, or sums to make.

Where every row comes once, a block is its own fold. Where a row comes again, and the changes of its table are of one
form, it is folded by columns as far as that is simple: what is set last stays, and whole numbers are added. All else is
left to `pipeline.core.fold.fold`, which says what a fold is; both give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any

from pipeline.core.change import Change
from pipeline.core.entries import Block, Events, block_of
from pipeline.core.fold import Wave, fold
from pipeline.core.table import Column, Kind, Table

__all__ = ["fold_events"]


def fold_events(events: Events, tables: Mapping[str, Table]) -> list[Wave]:
    """What `fold` makes of the changes of ``events``. ``tables`` are theirs, by their spelling."""
    others = [change for event in events.others.values() for change in event.changes]
    deletes = any(block.form.delete for block, _ in events.blocks) or any(change.delete for change in others)
    if not events.blocks or (deletes and any(table.cascades for table in tables.values())):
        return fold(*_one_by_one(events, tables), tables)
    found: dict[int, list[Block]] = {}
    for block, _ in events.blocks:
        found.setdefault(tables[block.form.table].oid, []).append(block)
    loose = {tables[change.table].oid for change in others}
    folded: dict[int, Sequence[Block]] = {}
    for table in tables.values():
        blocks = found.get(table.oid, ())
        if blocks and table.oid not in loose | folded.keys():
            alone = _fold_blocks(blocks, table)
            if alone is None:
                loose.add(table.oid)
            else:
                folded[table.oid] = alone
    left = {name: table for name, table in tables.items() if table.oid in loose}
    waves = fold(*_one_by_one(events, left), left) if left else [Wave()]
    waves[0].blocks = folded
    return waves


def _one_by_one(events: Events, tables: Mapping[str, Table]) -> tuple[Sequence[Change], Sequence[str | None]]:
    """The changes of ``events`` to ``tables``, in their order, and the identities of their keys."""
    found: list[tuple[int, Change, str | None]] = [
        (at, change, name)
        for at, event in events.others.items()
        for change, name in zip(event.changes, event.identities, strict=True)
        if change.table in tables
    ]
    for block, positions in events.blocks:
        if block.form.table in tables:
            found += zip(positions, block.changes(), block.names or repeat(None, block.size), strict=True)
    found.sort(key=itemgetter(0))  # the changes of one event stay in their order
    return [change for _, change, _ in found], [name for _, _, name in found]


def _fold_blocks(blocks: Sequence[Block], table: Table) -> Sequence[Block] | None:
    """The fold of all changes of a table, ``None`` if it cannot be made here."""
    inserts = {block.form.insert for block in blocks}
    if inserts != {None}:  # rows of the same columns, under two spellings of the table, are appended in their order
        return blocks if None not in inserts and len(inserts) == len(blocks) else None
    names = [name for block in blocks for name in block.names or ()]
    if len(set(names)) == len(names):
        return blocks
    if len(blocks) > 1:
        return None
    folded = _fold_block(blocks[0], names, table)
    return None if folded is None else [folded]


def _fold_block(block: Block, names: Sequence[str], table: Table) -> Block | None:
    """The fold of changes of one form, some of which are of the same row."""
    form = block.form
    if form.max or form.min or (form.set and form.add):
        return None
    key, operands = block.columns[: len(form.key)], block.columns[len(form.key) :]
    for column, kinds, values in zip(form.add, block.kinds[len(form.key) :], operands, strict=False):
        if not _sums_up(values, kinds, table.columns.get(column)):
            return None
    last = {name: row for row, name in enumerate(names)}  # in the order in which each came first
    first = last if form.delete else {name: row for row, name in reversed(list(enumerate(names)))}
    keyed = [first[name] for name in last]  # what a row is called at first stays, unless it is deleted
    folded: list[Sequence[Any]] = [[values[row] for row in keyed] for values in key]
    if form.add:
        place = {name: at for at, name in enumerate(last)}
        places = [place[name] for name in names]
        folded += [_sums(values, places, len(place)) for values in operands]
    else:
        folded += [[values[row] for row in last.values()] for values in operands]
    return block_of(form, folded, len(last), list(last))  # types that were overwritten are in it no more


def _sums_up(values: Sequence[Any], kinds: Iterable[type], column: Column | None) -> bool:
    """Whether these are whole numbers that no order of adding them takes out of the column's range."""
    if column is None or column.kind is not Kind.INTEGER or set(kinds) != {int}:
        return False
    most: int = max(map(abs, values))
    return most * len(values) <= column.high


def _sums(values: Iterable[int], places: Iterable[int], count: int) -> list[int]:
    sums = [0] * count
    for at, value in zip(places, values, strict=True):
        sums[at] += value
    return sums
