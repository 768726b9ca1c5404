"""The row cache: after any write the cached row is exactly right, or absent; never partial, never wrong."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Change, Pipeline
from pipeline.core.values import to_wire
from tests.integration.scene import Scene

ROW = "t:id=1"
KEY = {"id": 1}
CLEAN = {
    "id": 1,
    "n": 5,
    "big": 2**53 + 1,
    "text": "é",
    "flag": True,
    "nothing": None,
    "price": to_wire(Decimal("1.5")),
}


def written(scene: Scene, pipeline: Pipeline, change: Change) -> dict[str, Any]:
    scene.redis.delete(scene.keys.row + ROW)
    scene.cache(ROW, CLEAN)
    pipeline.write_group([change])
    return scene.cached(ROW)


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (Change("t", KEY, set={"n": 7}), {"n": 7}),
        (Change("t", KEY, set={"n": -(2**53) + 1}), {"n": -(2**53) + 1}),
        (Change("t", KEY, set={"text": 'say "hi"\\/\n\t\u2028😀'}), {"text": 'say "hi"\\/\n\t\u2028😀'}),
        (Change("t", KEY, set={"text": ""}), {"text": ""}),
        (Change("t", KEY, set={"flag": False}), {"flag": False}),
        (Change("t", KEY, add={"n": 2}), {"n": 7}),
        (Change("t", KEY, add={"n": -6}), {"n": -1}),
        (Change("t", KEY, add={"big": 1}), {"big": 2**53 + 2}),
        (Change("t", KEY, add={"n": 1, "big": 1}, set={"text": "x"}), {"n": 6, "big": 2**53 + 2, "text": "x"}),
        (Change("t", KEY), {}),
    ],
)
def test_what_redis_can_do_exactly_is_done_to_the_cached_row(
    redis_scene: Scene, change: Change, columns: dict[str, Any]
) -> None:
    pipeline = redis_scene.pipeline()
    row = written(redis_scene, pipeline, change)
    assert _exact(row) == _exact({**CLEAN, **columns})
    assert redis_scene.redis.ttl(redis_scene.keys.row + ROW) == -1  # pending: no eviction may drop it


@pytest.mark.parametrize(
    "change",
    [
        Change("t", KEY, delete=True),
        Change("t", KEY, max={"n": 9}),
        Change("t", KEY, min={"n": 9}),
        Change("t", KEY, set={"n": 9}, max={"big": 1}),
        Change("t", KEY, set={"n": None}),
        Change("t", KEY, set={"nothing": 1}),
        Change("t", KEY, set={"n": "7"}),  # PostgreSQL would make a number of it
        Change("t", KEY, set={"text": 7}),
        Change("t", KEY, set={"n": 1.5}),
        Change("t", KEY, set={"n": 2**53}),
        Change("t", KEY, set={"n": 10**30}),
        Change("t", KEY, set={"n": [1]}),
        Change("t", KEY, set={"n": {"a": 1}}),
        Change("t", KEY, set={"price": Decimal("2.5")}),
        Change("t", KEY, set={"text": date(2013, 1, 1)}),
        Change("t", KEY, set={"other": 1}),
        Change("t", KEY, set={"n": True}),
        Change("t", KEY, set={"flag": 1}),
        Change("t", KEY, add={"n": 1.5}),
        Change("t", KEY, add={"n": Decimal(1)}),
        Change("t", KEY, add={"nothing": 1}),
        Change("t", KEY, add={"text": 1}),
        Change("t", KEY, add={"flag": 1}),
        Change("t", KEY, add={"price": 1}),
        Change("t", KEY, add={"other": 1}),
        Change("t", KEY, add={"n": 2**62}),
        Change("t", KEY, set={"text": "x"}, add={"n": 1.5}),
    ],
    ids=repr,
)
def test_what_only_postgresql_knows_drops_the_cached_row(redis_scene: Scene, change: Change) -> None:
    assert written(redis_scene, redis_scene.pipeline(), change) == {}


def test_a_sum_beyond_64_bits_drops_the_cached_row(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    redis_scene.cache(ROW, {"id": 1, "n": 2**63 - 1, "m": 1})
    pipeline.write("t", KEY, add={"n": 1, "m": 1})
    assert redis_scene.cached(ROW) == {}
    assert len(redis_scene.overlay(ROW)) == 1


def test_an_absent_row_stays_absent(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    pipeline.write("t", KEY, set={"n": 1})
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write("t", KEY, max={"n": 1})
    pipeline.delete("t", KEY)
    pipeline.write_many([Change("t", KEY, set={"n": 1})] * 3)
    pipeline.insert("t", {"n": 1})
    assert redis_scene.redis.keys("pipeline.row*") == []


def test_a_write_touches_the_cached_row_of_its_key_only(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    for row in ("t:id=1", "t:id=11", "u:id=1"):
        redis_scene.cache(row, {"id": 1, "n": 5})
    pipeline.write("t", KEY, add={"n": 1})
    assert redis_scene.cached("t:id=1") == {"id": 1, "n": 6}
    assert redis_scene.cached("t:id=11") == redis_scene.cached("u:id=1") == {"id": 1, "n": 5}
    assert redis_scene.redis.ttl(redis_scene.keys.row + "u:id=1") > 0


def test_a_known_event_id_does_not_touch_the_cached_row(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    redis_scene.cache(ROW, {"id": 1, "n": 5})
    for _ in range(2):
        pipeline.write("t", KEY, add={"n": 1}, event_id="once")
    assert redis_scene.cached(ROW) == {"id": 1, "n": 6}


def test_a_dropped_row_is_not_revived_by_the_rest_of_its_group(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    redis_scene.cache(ROW, CLEAN)
    pipeline.write_group(
        [Change("t", KEY, set={"n": 1}), Change("t", KEY, delete=True), Change("t", KEY, set={"n": 2})]
    )
    assert redis_scene.cached(ROW) == {}


# --- any sequence of writes -------------------------------------------------------------------------------------------

integers = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**53 - 1, 2**53, 2**63 - 1, -(2**63)]), st.integers())
values = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 3).map(float),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5),
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.datetimes(timezones=st.just(UTC)),
    st.lists(st.integers(), max_size=2),
)
columns = st.sampled_from("abcd")
operands = st.one_of(integers, st.floats(-9, 9), st.integers(-3, 3).map(float))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    named = draw(st.lists(columns, unique=True, max_size=3))
    parts: dict[str, dict[str, Any]] = {"set": {}, "add": {}, "max": {}, "min": {}}
    if draw(st.integers(0, 9)) == 0:
        return Change("t", KEY, delete=True)
    for name in named:
        verb = draw(st.sampled_from(["set", "set", "set", "add", "add", "add", "max", "min"]))
        parts[verb][name] = draw(values if verb == "set" else operands)
    return Change("t", KEY, parts["set"], parts["add"], parts["max"], parts["min"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.fixed_dictionaries(dict.fromkeys("abc", values)), writes=st.lists(changes(), min_size=1, max_size=5))
def test_any_writes_leave_the_row_exact_or_absent(
    redis_scene: Scene, row: dict[str, Any], writes: list[Change]
) -> None:
    pipeline = redis_scene.pipeline()
    redis_scene.redis.delete(redis_scene.keys.row + ROW)
    expected: dict[str, Any] | None = {name: to_wire(value) for name, value in row.items()}
    redis_scene.cache(ROW, expected or {})
    for change in writes:
        pipeline.write_group([change])
        expected = None if expected is None else _after(expected, change)
        cached = redis_scene.cached(ROW)
        assert cached == {} or (expected is not None and _exact(cached) == _exact(expected))
        if not cached:
            expected = None


def _after(row: Mapping[str, Any], change: Change) -> dict[str, Any] | None:
    """The row that PostgreSQL would have, ``None`` if there is none or if it depends on the columns' types."""
    if change.delete or not {*change.set, *change.add, *change.max, *change.min} <= row.keys():
        return None
    after = dict(row)
    for name, value in change.set.items():
        wire = _number(to_wire(value))
        if wire is not None and type(wire) is not type(row[name]):
            return None
        after[name] = wire
    verbs: list[tuple[dict[str, Any], Callable[[int, int], int]]]
    verbs = [(change.add, int.__add__), (change.max, max), (change.min, min)]
    for part, combine in verbs:
        for name, value in part.items():
            operand = _number(value)
            if type(row[name]) is not int or type(operand) is not int:
                return None
            after[name] = combine(row[name], operand)
            if not -(2**63) <= after[name] < 2**63:
                return None
    return after


def _number(value: Any) -> Any:
    """Lua takes 1.0 for 1. In an integer column it is refused by PostgreSQL; then the row is dropped."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _exact(row: Mapping[str, Any]) -> dict[str, str]:
    """By JSON text, for which True and 1 differ."""
    return {name: json.dumps(value, sort_keys=True) for name, value in row.items()}
