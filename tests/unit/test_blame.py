"""Whose fault an error is: which events a suspect is compared with."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.blame import Lineup, shape
from pipeline.core.change import Change, Event


def event(name: str, *changes: Change) -> Event:
    return Event(id=name, changes=changes, accepted_ms=0, seq=None, raw=b"", identities=(None,) * len(changes))


def write(n: int, verb: str = "set", column: str = "n") -> Event:
    values = {column: n}
    return event(str(n), Change("t", {"id": n}, add=values) if verb == "add" else Change("t", {"id": n}, values))


def test_values_do_not_belong_to_the_shape_and_tables_verbs_and_columns_do() -> None:
    assert shape(write(1)) == shape(write(2))
    others = [
        write(1, "add"),
        write(1, column="m"),
        event("1", Change("u", {"id": 1}, {"n": 1})),
        event("1", Change("t", {"uid": 1}, {"n": 1})),
        event("1", Change("t", {"id": 1}, delete=True)),
        event("1", Change("t", insert={"id": 1, "n": 1})),
        event("1", Change("t", {"id": 1}, {"n": 1}), Change("u", {"id": 1}, {"n": 1})),
    ]
    looks = {shape(write(1)), *map(shape, others)}
    assert len(looks) == len(others) + 1


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data())
def test_a_suspect_is_compared_with_a_few_others_of_its_shape(kinds: list[bool], data: st.DataObject) -> None:
    events = [write(n, "set" if kind else "add") for n, kind in enumerate(kinds)]
    suspect = data.draw(st.sampled_from(events))
    others = list(Lineup(events).beside(suspect))
    alike = [other for other in events if shape(other) == shape(suspect) and other is not suspect]
    assert len(others) <= 8
    assert all(any(other is one for one in alike) for other in others)
    assert bool(others) == bool(alike)
    if len(alike) < 6:
        assert {other.id for other in others} == {other.id for other in alike}
