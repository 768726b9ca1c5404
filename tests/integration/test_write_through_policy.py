"""Tables that are only written through: other writes of them are errors, or are written through."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import Change, DurabilityNotReached, InvalidEvent, Outcome, Pipeline, PipelineError, PipelineFull
from pipeline.driving import run
from pipeline.receipts import Slip
from tests.integration.conftest import both_types
from tests.integration.scene import Scene, dead, drain

pytestmark = both_types

KEY = {"id": 1}
ORDERS = {"write_through_tables": ["orders"]}


@pytest.fixture
def tables(scene: Scene) -> Scene:
    for table in ("orders", "views"):
        scene.sql(f"CREATE TABLE {table} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0 CHECK (n < 100))")
    return scene


@pytest.fixture
def strict(tables: Scene) -> Pipeline:
    return tables.pipeline(**ORDERS)


@pytest.fixture
def routing(tables: Scene) -> Pipeline:
    return tables.pipeline(**ORDERS, write_through_policy="route", durability_timeout_seconds=0.1)


def rows(scene: Scene, table: str) -> list[Any]:
    return scene.sql(f"SELECT id, n FROM {table} ORDER BY id")


def test_a_write_to_such_a_table_is_an_error_that_says_what_to_do(tables: Scene, strict: Pipeline) -> None:
    order = Change("orders", KEY, set={"n": 1})
    for write in (
        lambda: strict.write("orders", KEY, set={"n": 1}),
        lambda: strict.write('"orders"', KEY, set={"n": 1}),
        lambda: strict.delete("orders", KEY),
        lambda: strict.insert("orders", {"id": 1}),
        lambda: strict.write_many([order]),
        lambda: strict.write_group([Change("views", KEY), order], shard_by="g"),
    ):
        with pytest.raises(InvalidEvent, match="call write_through") as caught:
            write()
        assert caught.value.table == "orders"
    strict.write_through("orders", KEY, set={"n": 2})
    strict.write("views", KEY, add={"n": 3})
    drain(strict)
    assert (rows(tables, "orders"), rows(tables, "views")) == ([(1, 2)], [(1, 3)])


def test_writes_are_routed_and_their_receipts_say_so(tables: Scene, routing: Pipeline) -> None:
    tables.sql("INSERT INTO orders VALUES (3, 3)")
    receipts = [
        routing.write("orders", KEY, set={"n": 1}),
        routing.write('"orders"', KEY, add={"n": 1}, durability="disk"),
        routing.insert("orders", {"id": 2, "n": 5}),
        routing.delete("orders", {"id": 3}),
    ]
    assert rows(tables, "orders") == [(1, 2), (2, 5)]
    assert [(receipt.seq, receipt.applied, receipt.duplicate) for receipt in receipts] == [(0, True, False)] * 4
    assert routing.wait_all(receipts, timeout=0) == [Outcome.APPLIED] * 4
    assert routing.outcome(receipts[0]) is Outcome.APPLIED
    assert len({receipt.event_id for receipt in receipts}) == 4
    assert not routing.write("views", KEY, set={"n": 1}).applied
    assert tables.queued() != []


def test_many_are_written_in_their_order(tables: Scene, routing: Pipeline) -> None:
    changes = [
        Change("views", {"id": 1}, add={"n": 1}),
        Change("orders", KEY, set={"n": 5}),
        Change("orders", KEY, add={"n": 1}),
        Change("views", {"id": 1}, add={"n": 1}),
        Change("views", {"id": 2}, add={"n": 1}),
        Change("orders", KEY, add={"n": 10}),
    ]
    receipts = routing.write_many(iter(changes))
    assert [receipt.applied for receipt in receipts] == [False, True, True, False, False, True]
    assert rows(tables, "orders") == [(1, 16)]
    drain(routing)
    assert rows(tables, "views") == [(1, 2), (2, 1)]


@pytest.mark.parametrize("bad", [Change("orders", KEY, set={"n": 100}), Change("views", {}), Change("", KEY), "orders"])
def test_what_was_accepted_of_many_before_an_error_is_told(routing: Pipeline, bad: Any) -> None:
    good = [Change("views", KEY, add={"n": 1}), Change("orders", KEY, add={"n": 1})]
    with pytest.raises(PipelineError) as caught:
        routing.write_many([*good, bad, *good])
    first, second, *rest = caught.value.receipts
    assert isinstance(first, Slip)
    assert isinstance(second, Slip)
    assert (first.applied, second.applied) == (False, True)
    assert rest
    assert set(rest) == {None}


def test_many_that_are_not_durable_enough_are_all_told(routing: Pipeline) -> None:
    changes = [Change("orders", KEY, add={"n": 1}), Change("views", KEY, add={"n": 1})]
    with pytest.raises(DurabilityNotReached) as caught:
        routing.write_many(changes, durability="replica")
    assert [receipt is not None for receipt in caught.value.receipts] == [True, True]
    assert caught.value.args[-1] == caught.value.receipts


def test_what_is_behind_those_that_are_not_durable_enough_is_written_all_the_same(
    tables: Scene, routing: Pipeline
) -> None:
    changes = [
        Change("views", {"id": 1}),
        Change("orders", KEY),
        Change("views", {"id": 2}),
        Change("orders", {"id": 2}),
    ]
    with pytest.raises(DurabilityNotReached) as caught:
        routing.write_many(changes, durability="replica")
    assert [receipt is not None for receipt in caught.value.receipts] == [True] * 4
    assert rows(tables, "orders") == [(1, 0), (2, 0)]
    assert len(tables.queued()) == 2


def test_a_full_shard_says_how_much_of_many_was_accepted_and_each_change_that_was_taken_has_an_entry(
    tables: Scene,
) -> None:
    full = tables.pipeline(**ORDERS, write_through_policy="route", max_pending=3)
    changes = [Change("views", {"id": n}) for n in range(5)]
    taken: list[Change] = []

    def take(part: list[Change]) -> Iterator[Change]:
        for change in part:
            taken.append(change)
            yield change

    with pytest.raises(PipelineFull) as caught:
        full.write_many(take([changes[0], Change("orders", KEY), *changes[1:], Change("orders", {"id": 2}), *changes]))
    assert caught.value.accepted == sum(receipt is not None for receipt in caught.value.receipts)
    assert len(caught.value.receipts) == len(taken) == 7
    assert rows(tables, "orders") == [(1, 0)]


def test_what_cannot_be_routed_exactly_is_refused(tables: Scene, routing: Pipeline) -> None:
    with pytest.raises(InvalidEvent, match="would be applied twice"):
        routing.write("orders", KEY, set={"n": 1}, event_id="once")
    with pytest.raises(InvalidEvent, match="part of a group"):
        routing.write_group([Change("orders", KEY, set={"n": 1})])
    assert rows(tables, "orders") == []


@pytest.mark.parametrize("policy", ["raise", "route"])
def test_an_event_from_celery_becomes_a_dead_letter_with_the_reason(tables: Scene, policy: str) -> None:
    pipeline = tables.pipeline(**ORDERS, write_through_policy=policy)
    arguments = {"table": "orders", "key": KEY, "set": {"n": 1}}
    for _ in range(2):
        run(pipeline.ingress.accept("from-celery", arguments, lambda: json.dumps([[], arguments, {}])))
    lax = tables.pipeline()
    lax.write("orders", KEY, add={"n": 7})  # accepted before the table was one of those
    message = tables.queued()[-1].replace(b'"pipeline":[2,', b'"was":[2,')
    assert b'"was"' in message
    tables.redis.lpush(tables.keys.events, message.replace(b'"id":"', b'"id":"x'))  # by some other client
    drain(pipeline)
    assert rows(tables, "orders") == [(1, 7)]
    letters = dead(pipeline)
    assert ["PIPELINE_WRITE_THROUGH_TABLES" in letter.reason for letter in letters] == [True, True]


def test_an_event_id_of_a_receipt_is_never_one_of_another(routing: Pipeline) -> None:
    names = [routing.write("orders", {"id": n}).event_id for n in range(5)]
    assert all(first < second for first, second in itertools.pairwise(names))


@pytest.mark.parametrize(("listed", "written"), [("orders", "public.orders"), ("public.orders", '"orders"')])
def test_another_spelling_of_the_table_is_no_way_around(tables: Scene, listed: str, written: str) -> None:
    pipeline = tables.pipeline(write_through_tables=[listed])
    with pytest.raises(InvalidEvent, match="call write_through"):
        pipeline.write(written, KEY, set={"n": 1})
    pipeline.write("public.views", KEY, set={"n": 1})
