"""What an acknowledgement says of a batch: every event once, every row with what is to be dropped of it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffer.replies import Part, Span, parts, span_of
from pipeline.core.change import Change, Event
from pipeline.core.claim import Claimed
from pipeline.core.codec import Malformed
from pipeline.core.decoding import Decoder
from pipeline.ports import Applied
from tests.unit.messages import TASK, message

ROWS, EVENTS = 250, 5000


def event(seq: int | None, *keys: int | None) -> Event:
    changes = tuple(Change("t", {} if key is None else {"id": key}) for key in keys)
    return Event(f"id-{seq}", changes, tuple(None if key is None else f"id={key}" for key in keys), seq=seq)


def applied(dead: Sequence[int] = (), aside: Sequence[int] = ()) -> Applied:
    return Applied(seq=1, rows=0, dead=frozenset(dead), skipped=0, aside=frozenset(aside))


def one_by_one(start: int, entries: Sequence[Event | Malformed], what: Applied) -> Part:
    """What a part says that begins at ``start`` and has ``entries``."""
    part = Part(len(entries))
    for position, entry in enumerate(entries, start):
        rows = [f"t:{name}" for name in entry.identities if name] if isinstance(entry, Event) else []
        if position in what.aside:
            part.aside.append(position)
            part.touched |= dict.fromkeys(rows, "t")
            continue
        for row in rows:
            count, last, spoilt = part.rows.get(row, [0, 0, 0])
            bad = int(position in what.dead or entry.seq is None)
            part.rows[row] = [count + (entry.seq is not None), entry.seq or last, spoilt | bad]
    return part


def is_full(part: Part) -> bool:
    return len(part.rows) + len(part.aside) + len(part.touched) >= ROWS or part.events >= EVENTS


keys = st.none() | st.integers(0, 600)
odd_entries = st.one_of(
    st.lists(keys, min_size=1, max_size=3).map(lambda keys: event(7, *keys)),
    keys.map(lambda key: event(None, key)),
    st.just(Malformed("why", b"")),
)


@given(
    st.lists(st.tuples(st.integers(0, 400), odd_entries), max_size=4),
    st.integers(1, 600),
    st.sets(st.integers(0, 900), max_size=3),
    st.sets(st.integers(0, 900), max_size=3),
)
def test_each_part_says_what_became_of_its_events_and_none_is_larger_than_it_must_be(
    odd: list[tuple[int, Event | Malformed]], different: int, dead: set[int], aside: set[int]
) -> None:
    entries: list[Event | Malformed] = []
    for count, entry in odd:
        entries += [event(len(entries) + n + 1, n % different) for n in range(count)]
        entries.append(entry)
    what = applied(list(dead), list(aside))
    found = list(parts(entries, what))
    start = 0
    for part in found:
        assert part == one_by_one(start, entries[start : start + part.events], what)
        assert is_full(part) or part is found[-1]
        assert part.events == 0 or not is_full(one_by_one(start, entries[start : start + part.events - 1], what))
        start += part.events
    assert start == len(entries)


def test_many_events_of_few_rows_are_settled_in_few_calls() -> None:
    assert [part.events for part in parts([event(n, n % 10) for n in range(1, 12_001)], applied())] == [
        5000,
        5000,
        2000,
    ]
    assert [part.events for part in parts([event(n, None) for n in range(1, 6_001)], applied())] == [5000, 1000]


def test_nothing_is_settled_in_one_call() -> None:
    assert list(parts([], applied())) == [Part()]


def test_every_row_of_an_event_is_settled_and_too_many_of_them_end_the_part() -> None:
    entries = [event(1, 1), event(2, *range(300)), event(3, 1), event(4, None, 7)]
    first, second = parts(entries, applied())
    assert (first.events, len(first.rows), first.rows["t:id=1"]) == (2, 300, [2, 2, 0])
    assert second.rows == {"t:id=1": [1, 3, 0], "t:id=7": [1, 4, 0]}


# --- the same for what has stayed columns

Written = tuple[int | None, list[int | None]]
"""An event: its number, ``None`` for one from outside, and the keys of its changes, ``None`` for an insert."""


def raw(position: int, number: int | None, keys: Sequence[int | None]) -> bytes:
    changes = [
        Change("log", insert={"n": position}) if key is None else Change("tu"[key % 2], {"id": key}, add={"n": 1})
        for key in keys
    ]
    if not changes:
        return b"{"
    whole = message(f"id-{position}", changes, accepted=(number or 0, 5))
    return whole if number is not None else whole.replace(b'"pipeline":[0,5]', b'"other":0')


ordinary = st.lists(st.none() | st.integers(0, 4) | st.integers(0, 600), min_size=1, max_size=1)
odd = st.lists(st.none() | st.integers(0, 9), max_size=3)


@st.composite
def batches(draw: st.DrawFn) -> list[bytes]:
    """Messages, most of them ordinary: a pattern of keys that comes again and again, with others in between."""
    pattern = draw(st.lists(ordinary, min_size=1, max_size=8))
    stretch = draw(st.sampled_from([1, 97]))
    first = draw(st.sampled_from([0, 1, 1, 1, 7]))
    written: list[Written] = []
    for number in range(first, first + draw(st.integers(0, 600))):
        keys = [
            None if key is None else key + number // len(pattern) * stretch for key in pattern[number % len(pattern)]
        ]
        written.append((number, keys))
    for others in draw(st.lists(odd, max_size=3)):
        at = draw(st.integers(0, len(written)))
        written.insert(at, (draw(st.none() | st.just(at) | st.integers(0, 2**53)), others))
    return [raw(position, *each) for position, each in enumerate(written)]


positions = st.frozensets(st.integers(0, 610), max_size=3)


@given(batches(), positions, positions)
def test_what_has_stayed_columns_is_settled_as_event_by_event(
    messages: list[bytes], dead: frozenset[int], aside: frozenset[int]
) -> None:
    entries = Decoder(TASK).decode(messages)
    what = applied(list(dead), list(aside))
    found = list(parts(entries, what))
    assert found == list(parts(list(entries), what))
    assert all(type(seq) is int for part in found for _, seq, _ in part.rows.values())


def test_most_of_such_a_batch_has_stayed_columns() -> None:
    messages = [raw(n, n + 1, [n % 40 if n % 3 else None]) for n in range(600)]
    messages[17], messages[400] = raw(17, 18, [1, 2]), raw(400, None, [3])
    assert sorted(Decoder(TASK).decode(messages).others) == [17, 400]


def claim(messages: Sequence[bytes], settled: int | None, accepted: int) -> Claimed:
    return Claimed(0, "batch", 1, 0, 0, messages, settled=settled, accepted=accepted)


@given(batches(), st.none() | st.integers(0, 8), st.integers(0, 700), positions)
def test_the_span_of_a_batch_is_that_of_its_events(
    messages: list[bytes], settled: int | None, accepted: int, aside: frozenset[int]
) -> None:
    entries = Decoder(TASK).decode(messages)
    batch = claim(messages, settled, accepted)
    what = applied(aside=list(aside))
    found = span_of(batch, entries, what)
    assert found == span_of(batch, list(entries), what)
    given = {entry.seq for entry in entries if entry.seq and entry.seq <= accepted}
    assert found.last == max(given, default=0)
    is_ordinary = (
        len(given) == len(entries) == found.last - min(given) + 1 and settled is not None and settled < min(given)
        if given and not aside
        else False
    )
    assert found.first == (min(given) if is_ordinary else 0)


NUMBERS: dict[str, tuple[list[int | None], Span]] = {
    "one after the other": ([4, 5, 6], Span(4, 6)),
    "in another order": ([6, 4, 5], Span(4, 6)),
    "one twice": ([4, 5, 5, 6], Span(0, 6)),
    "one twice for another": ([4, 5, 5, 7], Span(0, 7)),
    "one missing": ([4, 6], Span(0, 6)),
    "one without": ([4, None, 5], Span(0, 5)),
    "one invented": ([4, 5, 99], Span(0, 5)),
    "one that is none": ([0, 4, 5], Span(0, 5)),
    "settled before": ([3, 4], Span(0, 4)),
    "none": ([], Span(0, 0)),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_span_is_ordinary_if_every_number_in_it_is_there_once(kind: str) -> None:
    numbers, expected = NUMBERS[kind]
    messages = [raw(position, number, [position]) for position, number in enumerate(numbers)]
    assert span_of(claim(messages, 3, 10), Decoder(TASK).decode(messages), applied()) == expected
    assert span_of(claim(messages, None, 10), Decoder(TASK).decode(messages), applied()).first == 0
