"""What an acknowledgement says of a batch: every event once, every row with what is to be dropped of it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffer.replies import Part, parts
from pipeline.core.change import Change, Event
from pipeline.core.codec import Malformed
from pipeline.ports import Applied

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
