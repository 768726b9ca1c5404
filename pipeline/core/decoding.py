"""Many messages at once, as a flush claims them: what they have in common is looked at once, their values by columns.

Nearly every message was made by this package for a single change, and nearly every change names the same columns as
one before it. The types here say what such an ordinary message is, so that the decoder itself tells it from others.
What is not ordinary goes the general way, `pipeline.core.codec.decode`, and so does what lies beside a wrong value:
there it is found out which one is wrong, and why. Both ways give the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import astuple

from pipeline.core.change import (
    INCREMENTS,
    MAX_EVENT_ID,
    MAX_IDENTITY,
    Change,
    canonical_table,
    check_form,
    well_named,
)
from pipeline.core.codec import Number, decode
from pipeline.core.entries import Block, Entries, Form, Placed
from pipeline.core.forms import Embed, Known, decoder_of, known
from pipeline.core.values import column_from_wire, identities
from pipeline.errors import InvalidEvent

__all__ = ["Decoder"]

_TOGETHER: Final = 512
"""Messages that are looked at together, so that enough of them are alike, also where many tables are written to."""

_BESIDE: Final = 32
"""Changes among which the wrong one is looked for one by one."""

_FEW: Final = 4
"""So many changes at least that are alike are looked at together: with fewer it does not pay."""


_WORTH: Final = 32
"""Changes of a form in a batch that make it worth to be remembered."""

_KNOWN_TABLES: Final = 64
"""Tables whose forms are remembered: a stranger's messages must not cost memory."""


class _Headers(msgspec.Struct, frozen=True, gc=False):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID)]
    task: str
    pipeline: tuple[Number, Number]
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


_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_body: Final = msgspec.json.Decoder(tuple[tuple[()], Change, Embed]).decode


_UNKNOWN: Final = _Headers("", "", (0, 0))
"""Of a message that is not ordinary."""


class _Mixed(Exception):
    """Changes that are not of one form."""


class _Memory(NamedTuple):
    """The forms that are known, at most one for each table, by the types of their changes."""

    known: Mapping[type, Known]
    decode: Callable[[str], tuple[object, Any, object]]


class Decoder:
    """Decodes batches of messages of the task named ``task``, and remembers of which form most changes of a table are.

    Nothing but speed depends on what it remembers. Threads may share it.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._memory = _Memory({}, _decode_body)

    def decode(self, messages: Sequence[bytes]) -> Entries:
        """What `pipeline.core.codec.decode` gives for each of ``messages``."""
        batch = _Batch(messages, self._task, self._memory)
        for start in range(0, len(messages), _TOGETHER):
            batch.decode(start, start + _TOGETHER)
        entries = batch.entries()
        self._learn(entries.blocks, batch.strange)
        return entries

    def _learn(self, blocks: Iterable[Placed], strange: Mapping[Form, int]) -> None:
        """Remember the form that most changes of a table have, where many of these were ``strange``."""
        largest = {block.form.table: block for block, _ in sorted(blocks, key=lambda placed: placed[0].size)}
        before = {each.form.table: each for each in self._memory.known.values()}
        worth = [block for block in largest.values() if strange.get(block.form, 0) >= _WORTH][-_KNOWN_TABLES:]
        learned = {block.form.table: found for block in worth if (found := known(block, before.get(block.form.table)))}
        if learned:
            types = {each.of_change: each for each in list((before | learned).values())[-_KNOWN_TABLES:]}
            self._memory = _Memory(types, decoder_of(types))


class _Found:
    """The changes of ordinary messages, all of one table, and where these stood; ``known``: the form of them all."""

    __slots__ = ("changes", "known", "positions")

    def __init__(self, known: Known | None, positions: Sequence[int] = (), changes: Sequence[Any] = ()) -> None:
        self.known = known
        self.positions = list(positions)
        self.changes = list(changes)

    def __getitem__(self, part: slice) -> _Found:
        return _Found(self.known, self.positions[part], self.changes[part])

    def block(self) -> Block:
        """The block of these changes.

        Raises:
            _Mixed: they are of several forms.
            InvalidEvent: something is wrong with some of them, or to be corrected.
        """
        if self.known is None:
            return _unseal(self.changes)
        return _checked(self.known.block(self.changes), self.known.small)


class _Batch:
    """Puts the entries of a batch together, some messages at a time."""

    def __init__(self, messages: Sequence[bytes], task: str, memory: _Memory) -> None:
        self._messages = messages
        self._task = task
        self._memory = memory
        self._headers: list[_Headers] = []
        self._ids: list[str] = []
        self._blocks: dict[Form, tuple[list[Block], list[int]]] = {}
        self.strange: Counter[Form] = Counter()
        """How many changes were of forms, or of types in them, that are not known."""

    def decode(self, start: int, end: int) -> None:
        """Take apart what is ordinary among the messages from ``start`` to ``end``."""
        messages = self._messages[start:end]
        try:  # nearly always they are of known forms, all of them
            decoded = [_decode_message(raw) for raw in messages]
            changes = [self._memory.decode(message.body)[1] for message in decoded]
            headers = [message.headers for message in decoded]
        except (ValueError, RecursionError):
            headers, changes = self._one_by_one(messages)
        ids = [each.id for each in headers]
        if {each.task for each in headers} != {self._task} or not "".join(ids).isprintable():
            is_ours = [each.task == self._task and each.id.isprintable() for each in headers]
            changes = [change if ours else None for change, ours in zip(changes, is_ours, strict=True)]
        self._headers += headers
        self._ids += ids
        self._place_all(start, changes)

    def _place_all(self, start: int, changes: Sequence[Any]) -> None:
        """Make blocks of ``changes``, of which the first stands at ``start``."""
        kinds = set(map(type, changes))
        known = self._memory.known.get(next(iter(kinds), NoneType)) if len(kinds) == 1 else None
        if known is not None:
            self._place(_Found(known, range(start, start + len(changes)), changes))
            return
        found: dict[object, _Found] = {}
        for position, change in enumerate(changes, start):
            kind = type(change)
            if kind is Change or kind in self._memory.known:  # else it is none, or of a table without a name
                name = change.table if kind is Change else kind
                if name not in found:
                    found[name] = _Found(self._memory.known.get(kind))
                found[name].positions.append(position)
                found[name].changes.append(change)
        for each in found.values():
            self._place(each)

    def _one_by_one(self, messages: Sequence[bytes]) -> tuple[list[_Headers], list[Any]]:
        """The headers and the changes of ``messages``; `_UNKNOWN` and ``None`` of one that is not ordinary."""
        headers: list[_Headers] = []
        changes: list[Any] = []
        for raw in messages:
            try:
                message = _decode_message(raw)
                headers.append(message.headers)
            except (ValueError, RecursionError):
                headers.append(_UNKNOWN)
                changes.append(None)
                continue
            try:
                changes.append(self._memory.decode(message.body)[1])
            except (ValueError, RecursionError):
                changes.append(_change(message.body))
        return headers, changes

    def _place(self, found: _Found) -> None:
        """Make blocks of ``found``, but not of what is to be looked at one by one."""
        count = len(found.positions)
        if count < _FEW:
            return
        try:
            block = found.block()
        except _Mixed:
            for alike in _by_columns(found):
                self._place(alike)
        except (ValueError, RecursionError):
            for start in range(0, count, _BESIDE) if count > _BESIDE else ():
                self._place(found[start : start + _BESIDE])
        else:
            blocks, positions = self._blocks.setdefault(block.form, ([], []))
            blocks.append(block)
            positions += found.positions
            if found.known is None:
                self.strange[block.form] += count

    def entries(self) -> Entries:
        """All of them; what is in no block is left to `decode`."""
        headers, ids = self._headers, self._ids
        numbers: list[int | None] = [each.pipeline[0] for each in headers]
        accepted_ms: list[int | None] = [each.pipeline[1] for each in headers]
        blocks = [_joined(blocks, positions) for blocks, positions in self._blocks.values()]
        others = {}
        if sum(block.size for block, _ in blocks) < len(headers):
            ordinary = set(chain.from_iterable(positions for _, positions in blocks))
            for position in sorted(set(range(len(headers))) - ordinary):
                entry = others[position] = decode(self._messages[position], self._task)
                ids[position], numbers[position], accepted_ms[position] = entry.id or "", entry.seq, entry.accepted_ms
        return Entries(self._messages, ids, numbers, accepted_ms, blocks=blocks, others=others)


def _change(body: str) -> Change | None:
    try:
        return _decode_body(body)[1]
    except (ValueError, RecursionError):
        return None


def _joined(blocks: Sequence[Block], positions: Sequence[int]) -> Placed:
    """One of many of a form, ordered by ``positions``: changes of known types may have been placed before others."""
    if len(blocks) == 1:
        return blocks[0], positions
    names = None if blocks[0].names is None else [name for block in blocks for name in block.names or ()]
    columns = [list(chain.from_iterable(parts)) for parts in zip(*(block.columns for block in blocks), strict=True)]
    kinds = [frozenset().union(*each) for each in zip(*(block.kinds for block in blocks), strict=True)]
    ordered = sorted(positions)
    if ordered != positions:
        order = sorted(range(len(positions)), key=positions.__getitem__)
        columns = [[values[at] for at in order] for values in columns]
        names = None if names is None else [names[at] for at in order]
    return Block(blocks[0].form, columns, kinds, len(positions), names), ordered


def _by_columns(found: _Found) -> Collection[_Found]:
    """``found`` by the columns of their changes, in their order, and by what is done to them."""
    forms: dict[tuple[object, ...], _Found] = defaultdict(lambda: _Found(None))
    for position, change in zip(found.positions, found.changes, strict=True):
        _, key, set_, add, max_, min_, delete, insert = astuple(change)
        columns = (*key, 0, *set_, 1, *add, 2, *max_, 3, *min_, delete, insert is None)
        alike = forms[columns if insert is None else (*columns, *insert)]
        alike.positions.append(position)
        alike.changes.append(change)
    return forms.values()


def _unseal(changes: Sequence[Change]) -> Block:
    """The block of ``changes``, to each of which it does what `pipeline.core.change.unseal` does.

    Raises:
        _Mixed: there is only one of those that are alike.
        InvalidEvent: something is wrong with some of them, or to be corrected.
    """
    one, count = changes[0], len(changes)
    _, *parts, deletes, inserts = zip(*map(astuple, changes), strict=True)
    if deletes.count(one.delete) < count or inserts.count(None) not in {0, count}:
        raise _Mixed
    parts.append(tuple([insert or {} for insert in inserts]))
    named = list(map(_columns, parts))
    key, set_, add, max_, min_, inserted = map(tuple, named)
    form = Form(one.table, key, set_, add, max_, min_, one.delete, None if one.insert is None else inserted)
    check_form(one)
    if canonical_table(one.table) != one.table or not well_named(form.columns):
        raise InvalidEvent("names to be looked at one by one")
    columns, kinds = [], []
    for values in chain.from_iterable(map(dict.values, named)):
        decoded, types = column_from_wire(values)
        columns.append(decoded)
        kinds.append(types)
    return _checked(Block(form, columns, kinds, count, None))


def _checked(block: Block, small: Collection[str] = ()) -> Block:
    """``block`` with the identities of its keys; raises `InvalidEvent` if an operand is wrong or a key too long.

    ``small``: see `identities`.
    """
    form = block.form
    kinds = dict(zip(form.columns, block.kinds, strict=True))
    compared = [kinds[name] for name in (*form.max, *form.min)]
    if not all(kinds[name] <= INCREMENTS for name in form.add) or not all(map(_NO_OPERANDS.isdisjoint, compared)):
        raise InvalidEvent("operands to be looked at one by one")
    return block if form.insert is not None else block._replace(names=_names(block, small))


def _names(block: Block, small: Collection[str]) -> Sequence[str]:
    """The identities of the keys."""
    key = block.form.key
    names = identities(dict(zip(key, block.columns[: len(key)], strict=True)), small)
    if max(map(len, names)) > MAX_IDENTITY:
        raise InvalidEvent("keys to be looked at one by one")
    return names


_NO_OPERANDS: Final = frozenset({type(None), dict, list})
"""What `max` and `min` do not take."""


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Sequence[Any]]:
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
