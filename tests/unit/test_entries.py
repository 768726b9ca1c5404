"""The entries of a batch are the events of its messages, in their order, however they are kept."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffer.replies import parts, span_of
from pipeline.core.change import Change, Event
from pipeline.core.claim import Claimed
from pipeline.core.codec import Malformed, decode
from pipeline.core.decoding import Decoder
from pipeline.core.entries import Block, Entries, Events, Form, block_of
from pipeline.core.fold_columns import fold_events
from pipeline.core.table import Table
from pipeline.core.turns import order_of
from pipeline.ports import Applied
from tests.unit import strategies
from tests.unit.calling import calls_of
from tests.unit.messages import TASK, message, numbered
from tests.unit.table_model import COLUMNS

COUNTER = [Change("t", {"id": 1}, add={"n": 1})]
TEXT = [Change("t", {"id": 2}, {"name": "x"})]
APPENDED = [Change("log", insert={"at": 1})]
EMPTY = [Change("log", insert={})]
PAIR = [*COUNTER, *TEXT]
FROM_OUTSIDE = b'{"body":"[[],{\\"table\\":\\"t\\",\\"key\\":{\\"id\\":1}},{}]","headers":{"id":"o","task":"%b"},' % (
    TASK.encode()
)
OUTSIDE = (
    FROM_OUTSIDE + b'"properties":{"delivery_tag":"x"},"content-type":"application/json","content-encoding":"utf-8"}'
)
BROKEN = b"{"

kinds = st.sampled_from([COUNTER, COUNTER, TEXT, APPENDED, EMPTY, PAIR, OUTSIDE, BROKEN])
runs = st.lists(st.tuples(kinds, st.integers(1, 6)), max_size=8)


def messages_of(drawn: Sequence[tuple[list[Change] | bytes, int]]) -> list[bytes]:
    each = [kind for kind, often in drawn for _ in range(often)]
    written = numbered([kind if isinstance(kind, list) else COUNTER for kind in each])
    return [raw if isinstance(kind, list) else kind for raw, kind in zip(written, each, strict=True)]


def entries_of(messages: Sequence[bytes]) -> tuple[Entries, list[Event | Malformed]]:
    """The entries, and what each message is alone."""
    return Decoder(TASK).decode(messages), [decode(raw, TASK) for raw in messages]


def texts(entries: Sequence[object]) -> list[str]:
    return list(map(repr, entries))


MIXED = messages_of([(COUNTER, 6), (BROKEN, 1), (APPENDED, 5), (PAIR, 2), (TEXT, 4), (EMPTY, 4), (COUNTER, 2)])


# --- a sequence


@given(runs, st.data())
def test_entries_are_a_sequence_of_what_each_message_is(drawn: list[Any], data: st.DataObject) -> None:
    entries, alone = entries_of(messages_of(drawn))
    assert len(entries) == len(alone)
    start, stop = (data.draw(st.none() | st.integers(-50, 50)) for _ in range(2))
    step = data.draw(st.none() | st.integers(-3, 3).filter(bool))
    assert texts(entries[start:stop:step]) == texts(alone[start:stop:step])
    assert texts(entries) == texts(alone)
    assert texts(list(reversed(entries))) == texts(alone[::-1])
    assert [entry.seq for entry in entries] == entries.numbers
    assert [entry.accepted_ms for entry in entries] == entries.accepted_ms
    assert [entry.id or "" for entry in entries] == entries.ids


@given(runs, st.integers(-50, 50))
def test_an_index_finds_what_it_finds_in_a_list(drawn: list[Any], index: int) -> None:
    entries, alone = entries_of(messages_of(drawn))
    if -len(alone) <= index < len(alone):
        assert repr(entries[index]) == repr(alone[index])
        return
    with pytest.raises(IndexError):
        entries[index]


def test_an_entry_is_always_the_same_object() -> None:
    entries, _ = entries_of(MIXED)
    before = [entries[at] for at in range(len(entries))]
    events = entries.events([at for at, entry in enumerate(entries) if isinstance(entry, Event)])
    found = [*entries, *entries[:], *(entries[at - len(entries)] for at in range(len(entries)))]
    assert list(map(id, found)) == list(map(id, before)) * 3
    assert list(map(id, events)) == [id(entry) for entry in before if isinstance(entry, Event)]
    assert list(map(id, events)) == list(map(id, events[:]))


def test_an_ordinary_batch_is_never_taken_apart() -> None:
    """From its messages to what is written and acknowledged of it: no call for each event."""
    messages = numbered([[Change("t", {"id": n}, add={"count": 1})] for n in range(2048)])
    table = Table(1, "public", "t", COLUMNS, frozenset())
    claim = Claimed(0, "b", 1, 0, 0, messages, settled=0, accepted=2048)

    def flush() -> None:
        entries = Decoder(TASK).decode(messages)
        order_of(entries, claim)
        events = entries.events(range(len(entries)))
        fold_events(events, dict.fromkeys(events.tables, table))
        applied = Applied(seq=1, rows=2048, dead=frozenset(), skipped=0)
        span_of(claim, entries, applied)
        list(parts(entries, applied))

    assert calls_of(flush) < 2048 / 4


@given(runs)
def test_the_positions_in_blocks_ascend_and_each_entry_is_in_one_place(drawn: list[Any]) -> None:
    entries, _ = entries_of(messages_of(drawn))
    places = [list(positions) for _, positions in entries.blocks]
    assert places == [sorted(each) for each in places]
    assert [block.size for block, _ in entries.blocks] == list(map(len, places))
    assert sorted([*entries.others, *(at for each in places for at in each)]) == list(range(len(entries)))


@given(runs)
def test_a_row_is_known_of_what_is_ordinary_and_addresses_one(drawn: list[Any]) -> None:
    entries, alone = entries_of(messages_of(drawn))
    expected = [
        None
        if at in entries.others or not isinstance(entry, Event) or entry.identities[0] is None
        else f"{entry.changes[0].table}:{entry.identities[0]}"
        for at, entry in enumerate(alone)
    ]
    assert entries.rows() == expected
    assert Entries.of(alone).rows() == [None] * len(alone)


@given(runs)
def test_the_tables_are_those_of_all_changes(drawn: list[Any]) -> None:
    entries, alone = entries_of(messages_of(drawn))
    expected = {change.table for entry in alone if isinstance(entry, Event) for change in entry.changes}
    assert entries.tables == Entries.of(alone).tables == expected


def test_a_list_becomes_entries_once() -> None:
    _, alone = entries_of(MIXED)
    entries = Entries.of(alone)
    assert Entries.of(entries) is entries
    assert list(map(id, entries)) == list(map(id, alone))
    assert (entries.messages, entries.blocks) == ([entry.raw for entry in alone], ())
    assert (entries.numbers, entries.accepted_ms) == ([e.seq for e in alone], [e.accepted_ms for e in alone])


def test_other_others_leave_the_rest_as_it_was() -> None:
    entries, alone = entries_of(MIXED)
    list(entries)
    other = Malformed("refused", b"x")
    changed = entries.with_others(dict.fromkeys(entries.others, other))
    expected = [other if at in entries.others else entry for at, entry in enumerate(alone)]
    assert texts(changed) == texts(expected)
    assert texts(entries) == texts(alone)
    assert changed.rows() == entries.rows()


@pytest.mark.parametrize("empty", [Entries.of([]), Decoder(TASK).decode([])])
def test_of_nothing_there_is_nothing(empty: Entries) -> None:
    assert (len(empty), list(empty), empty.rows(), empty.tables, list(empty[:])) == (0, [], [], set(), [])
    assert not empty.events(range(0))
    assert fold_events(empty.events(range(0)), {}) == []


# --- the events that are to be written


@given(runs, st.data())
def test_the_events_at_some_positions_are_those_and_no_others(drawn: list[Any], data: st.DataObject) -> None:
    entries, alone = entries_of(messages_of(drawn))
    possible = [at for at, entry in enumerate(alone) if isinstance(entry, Event)]
    without = set(data.draw(st.lists(st.sampled_from(possible), max_size=4))) if possible else set()
    positions: Sequence[int] = [at for at in possible if at not in without]
    positions = data.draw(st.permutations(positions) | st.just(positions))
    assert_events(entries.events(positions), [alone[at] for at in positions])


@given(runs)
def test_the_events_at_all_positions_are_all(drawn: list[Any]) -> None:
    entries, alone = entries_of([raw for raw in messages_of(drawn) if raw != BROKEN])
    assert_events(entries.events(range(len(alone))), alone)
    assert_events(entries.events(list(range(len(alone)))), alone)
    assert_events(entries.events(range(len(alone) - 1, -1, -1)), alone[::-1])


def assert_events(events: Events, expected: Sequence[Event | Malformed]) -> None:
    assert texts(events) == texts(expected)
    assert len(events) == len(expected)
    assert bool(events) is bool(expected)
    assert texts(events[1:]) == texts(expected[1:])
    assert events.tables == Entries.of(expected).tables
    written = [change for block, _ in events.blocks for change in block.changes()]
    written += [change for event in events.others.values() for change in event.changes]
    changes = [change for entry in expected if isinstance(entry, Event) for change in entry.changes]
    assert sorted(map(repr, written)) == sorted(map(repr, changes))


def test_without_others_and_with_all_of_them_what_is_ordinary_stays_columns() -> None:
    entries, alone = entries_of(MIXED)
    events = [at for at, entry in enumerate(alone) if isinstance(entry, Event)]
    ordinary = [at for at in events if at not in entries.others]
    assert entries.events(events).blocks == entries.events(ordinary).blocks == entries.blocks
    assert entries.events(ordinary).others == {}
    assert entries.events(ordinary[1:]).blocks == ()
    assert entries.events(ordinary[::-1]).blocks == ()


@pytest.mark.parametrize("positions", [range(7, -1, -1), [*range(1, 8), 0]])
def test_columns_do_not_keep_what_is_to_be_written_in_another_order(positions: Sequence[int]) -> None:
    entries, _ = entries_of(of_one_row(8, lambda n: n))
    assert entries.events(range(8)).blocks == entries.events(list(range(8))).blocks == entries.blocks
    assert entries.events(positions).blocks == ()


def test_a_list_of_events_becomes_events_once() -> None:
    _, alone = entries_of(numbered([COUNTER, PAIR]))
    listed = [entry for entry in alone if isinstance(entry, Event)]
    events = Events.of(listed)
    assert Events.of(events) is events
    assert list(map(id, events)) == list(map(id, listed))
    assert len(events) == 2


def test_events_are_made_once_however_often_they_are_asked_for() -> None:
    _, alone = entries_of(numbered([COUNTER, PAIR]))
    made = iter([[entry for entry in alone if isinstance(entry, Event)]])
    events = Events((), {}, lambda: next(made))
    assert [events[0], *events, *events[1:]] == [alone[0], *alone, alone[1]]


# --- blocks


@given(strategies.changes, st.integers(0, 3))
def test_a_block_gives_its_changes_back(change: Change, count: int) -> None:
    named = [change.key, change.set, change.add, change.max, change.min]
    key, set_, add, max_, min_ = map(tuple, named)
    insert = None if change.insert is None else tuple(change.insert)
    form = Form(change.table, key, set_, add, max_, min_, change.delete, insert)
    values = [value for part in (*named, change.insert or {}) for value in part.values()]
    assert form.columns == (*key, *set_, *add, *max_, *min_, *(insert or ()))
    assert repr(form.change(values)) == repr(change)
    block = block_of(form, [[value] * count for value in values], count)
    assert texts(block.changes()) == [repr(change)] * count
    assert block.kinds == [frozenset([type(value)] * min(count, 1)) for value in values]


# --- changes of one form whose values are of different types


def of_one_row(count: int, value: Callable[[int], Any]) -> list[bytes]:
    return numbered([[Change("t", {"id": n % 3}, {"name": value(n)})] for n in range(count)])


UNLIKE: dict[str, Callable[[int], Any]] = {
    "every second": lambda n: n if n % 2 else f"x{n}",
    "the first": lambda n: n if n >= 5 else f"x{n}",
    "the last": lambda n: n if n < 600 else f"x{n}",
    "now and then": lambda n: n if n % 30 > 6 else None,
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_values_of_types_that_were_not_seen_before_do_not_overtake_others(kind: str) -> None:
    """They are decoded apart from those of the types that are known."""
    decoder = Decoder(TASK)
    decoder.decode(of_one_row(64, lambda n: n))
    messages = of_one_row(620, UNLIKE[kind])
    entries = decoder.decode(messages)
    assert [list(positions) for _, positions in entries.blocks] == [list(range(620))]
    alone = [entry for entry in (decode(raw, TASK) for raw in messages) if isinstance(entry, Event)]
    assert entries.rows() == [f"t:{event.identities[0]}" for event in alone]
    (wave,) = fold_events(entries.events(range(620)), {"t": Table(1, "public", "t", COLUMNS, frozenset())})
    ((block,),) = wave.blocks.values()
    last = {event.identities[0]: event.changes[0].set["name"] for event in alone}
    assert dict(zip(block.names or (), block.columns[1], strict=True)) == last


def test_a_block_is_what_a_block_says_of_itself() -> None:
    (entries, _) = entries_of(of_one_row(9, lambda n: None if n % 2 else n))
    ((block, _),) = entries.blocks
    assert block == Block(
        Form("t", ("id",), ("name",)),
        block.columns,
        [frozenset({int}), frozenset({int, type(None)})],
        9,
        [f"id={n % 3}" for n in range(9)],
    )
    assert message("id-1", [block.changes()[0]], accepted=(1, 1_700_000_000_001)) == entries[0].raw
