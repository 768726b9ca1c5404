"""Many messages at once, as a flush claims them: what they have in common is looked at once, their values by columns.

Nearly every message was made by this package for a single change, and nearly every change names the same columns as
one before it. The types here say what such an ordinary message is, so that the decoder itself tells it from others.
What is not ordinary goes the general way, `pipeline.core.codec.decode`, and so does what lies beside a wrong value:
there it is found out which one is wrong, and why. Both ways give the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from operator import itemgetter
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
from pipeline.core.codec import Counter, decode
from pipeline.core.entries import Block, Entries, Form
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
    pipeline: tuple[Counter, Counter]
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
        self._learn(entries)
        return entries

    def _learn(self, entries: Entries) -> None:
        """Remember of each table in ``entries`` the form that most of its changes have."""
        largest: dict[str, Block] = {}
        for block, _ in entries.blocks:
            table = block.form.table
            if table not in largest or block.size > largest[table].size:
                largest[table] = block
        before = {each.form.table: each for each in self._memory.known.values()}
        fresh = [
            found
            for table, block in largest.items()
            if block.size >= _WORTH and (table not in before or before[table].form != block.form)
            if (found := known(block))
        ]
        if fresh:
            after = (before if len(before) + len(fresh) <= _KNOWN_TABLES else {}) | {e.form.table: e for e in fresh}
            types = {each.of_change: each for each in after.values()}
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
        columns, kinds = self.known.columns(self.changes)
        return _checked(Block(self.known.form, columns, kinds, len(self.changes), None))


class _Batch:
    """Puts the entries of a batch together, some messages at a time."""

    def __init__(self, messages: Sequence[bytes], task: str, memory: _Memory) -> None:
        self._messages = messages
        self._task = task
        self._memory = memory
        self._headers: list[_Headers] = []
        self._blocks: dict[Form, tuple[list[Block], list[int]]] = {}

    def decode(self, start: int, end: int) -> None:
        """Take apart what is ordinary among the messages from ``start`` to ``end``."""
        messages = self._messages[start:end]
        try:  # nearly always they are of known forms, all of them
            decoded = [_decode_message(raw) for raw in messages]
            changes = [self._memory.decode(message.body)[1] for message in decoded]
            headers = [message.headers for message in decoded]
        except (ValueError, RecursionError):
            headers, changes = self._one_by_one(messages)
        self._headers += headers
        found: dict[object, _Found] = {}
        if len(set(map(type, changes))) == 1 and type(changes[0]) in self._memory.known:
            self._place(_Found(self._memory.known[type(changes[0])], range(start, start + len(changes)), changes))
            return
        for position, change in enumerate(changes, start):
            if change is not None:
                kind = type(change)
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
            headers = [self._headers[position] for position in found.positions]
            if {each.task for each in headers} != {self._task} or not "".join(
                [each.id for each in headers]
            ).isprintable():
                raise InvalidEvent("headers to be looked at one by one")
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

    def entries(self) -> Entries:
        """All of them; what is in no block is left to `decode`."""
        headers = self._headers
        ids = [each.id for each in headers]
        numbers: list[int | None] = [each.pipeline[0] for each in headers]
        accepted_ms: list[int | None] = [each.pipeline[1] for each in headers]
        blocks = [(_joined(blocks), positions) for blocks, positions in self._blocks.values()]
        others = {}
        if sum(block.size for block, _ in blocks) < len(headers):
            ordinary = set(chain.from_iterable(positions for _, positions in blocks))
            for position in set(range(len(headers))) - ordinary:
                entry = others[position] = decode(self._messages[position], self._task)
                ids[position], numbers[position], accepted_ms[position] = entry.id or "", entry.seq, entry.accepted_ms
        return Entries(self._messages, ids, numbers, accepted_ms, blocks=blocks, others=others)


def _change(body: str) -> Change | None:
    try:
        return _decode_body(body)[1]
    except (ValueError, RecursionError):
        return None


def _joined(blocks: Sequence[Block]) -> Block:
    """One of many of a form."""
    if len(blocks) == 1:
        return blocks[0]
    names = None if blocks[0].names is None else [name for block in blocks for name in block.names or ()]
    columns = [list(chain.from_iterable(parts)) for parts in zip(*(block.columns for block in blocks), strict=True)]
    kinds = [frozenset().union(*each) for each in zip(*(block.kinds for block in blocks), strict=True)]
    return Block(blocks[0].form, columns, kinds, sum(block.size for block in blocks), names)


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


def _checked(block: Block) -> Block:
    """``block`` with the identities of its keys; raises `InvalidEvent` if an operand is wrong or a key too long."""
    form = block.form
    kinds = dict(zip(form.columns, block.kinds, strict=True))
    compared = [kinds[name] for name in (*form.max, *form.min)]
    if not all(kinds[name] <= INCREMENTS for name in form.add) or not all(map(_NO_OPERANDS.isdisjoint, compared)):
        raise InvalidEvent("operands to be looked at one by one")
    return block if form.insert is not None else block._replace(names=_names(block))


def _names(block: Block) -> Sequence[str]:
    """The identities of the keys."""
    key = block.form.key
    names = identities(dict(zip(key, block.columns[: len(key)], strict=True)))
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
