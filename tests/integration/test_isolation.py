"""One bad event hurts only itself: its neighbours commit in the same transaction, and few savepoints find it."""

from math import ceil, log2
from typing import Any

import pytest

from pipeline import Change
from tests.conformance.lane import batch_of, event
from tests.integration.scene import Scene, dead, drain

MANY = 3000
TABLE = """
CREATE TABLE t (
    id int PRIMARY KEY, n int CHECK (n < 1000), word varchar(5), other int UNIQUE, day date,
    tx text DEFAULT pg_current_xact_id()::text
)
"""


def good(number: int) -> Change:
    return Change("t", {"id": number}, add={"n": 1})


POISON: dict[str, dict[str, Any]] = {
    "a text that is too long": {"set": {"word": "too long"}},
    "a value of another type": {"set": {"word": 7}},
    "a number out of range": {"set": {"n": 2**40}},
    "a check": {"add": {"n": 5000}},
    "no date": {"set": {"day": "2013-02-30"}},
    "a verb that the type does not have": {"add": {"word": 1}},
    "a unique value that is taken": {"set": {"other": 1}},
}


def poison(number: int, kind: str = "a text that is too long") -> Change:
    return Change("t", {"id": number}, **POISON[kind])


@pytest.mark.parametrize("place", [0, 1, MANY // 2, MANY - 1])
def test_one_poison_among_3000_costs_at_most_25_savepoints_and_no_transaction(scene: Scene, place: int) -> None:
    scene.sql(TABLE)
    events = [event(f"e{i}", poison(i) if i == place else good(i)) for i in range(MANY)]
    applied = scene.store().apply(batch_of(events, 1))
    assert (applied.dead, applied.rows) == (frozenset({place}), MANY - 1)
    assert applied.savepoints <= 1 + 25
    (transactions,) = scene.sql("SELECT array_agg(DISTINCT tx) FROM t")
    (letter,) = scene.sql("SELECT event_id, xmin::text FROM pipeline.dead_letter")
    (batch,) = scene.sql("SELECT xmin::text FROM pipeline.batch")
    assert letter[0] == f"e{place}"
    assert transactions == ([letter[1]],) == ([batch[0]],)


def test_a_good_batch_costs_one_savepoint(scene: Scene) -> None:
    scene.sql(TABLE)
    assert scene.store().apply(batch_of([event(f"e{i}", good(i)) for i in range(MANY)], 1)).savepoints == 1


def test_poisons_of_every_kind_are_found_and_their_neighbours_commit(scene: Scene) -> None:
    scene.sql(TABLE)
    scene.sql("INSERT INTO t (id, other) VALUES (-1, 1)")
    bad = {100 * place + 50: kind for place, kind in enumerate(POISON)}
    events = [event(f"e{i}", poison(i, bad[i]) if i in bad else good(i)) for i in range(700)]
    applied = scene.store().apply(batch_of(events, 1))
    assert (applied.dead, applied.rows) == (frozenset(bad), 700 - len(bad))
    assert applied.savepoints <= 1 + len(bad) * 2 * (1 + ceil(log2(700)))
    reasons = dict(scene.sql("SELECT event_id, reason FROM pipeline.dead_letter"))
    assert len(set(reasons.values())) == len(POISON)
    assert reasons["e50"] == "value too long for type character varying(5)"
    assert scene.sql("SELECT count(*), sum(n) FROM t WHERE id >= 0") == [(700 - len(bad), 700 - len(bad))]


def test_a_batch_of_nothing_but_poison_commits_its_dead_letters(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    receipts = pipeline.write_many([poison(i) for i in range(64)])
    report = drain(pipeline)
    assert (report.batches, report.events, report.rows, report.dead) == (1, 64, 0, 64)
    assert [letter.event_id for letter in dead(pipeline)] == [receipt.event_id for receipt in receipts]
    assert scene.sql("SELECT count(*) FROM t") == [(0,)]


def test_a_dead_letter_holds_the_message_as_it_was(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    receipt = pipeline.write_group([good(1), poison(1)])
    (message,) = scene.queued()
    drain(pipeline)
    (letter,) = dead(pipeline)
    assert letter.message == message
    assert (letter.event_id, letter.shard, letter.status, letter.attempts) == (receipt.event_id, 0, "dead", 1)
    assert (letter.table, letter.sqlstate) == ("t", "22001")
    assert letter.accepted_ms is not None
    assert 0 <= letter.dead_ms - letter.accepted_ms < 60_000


def test_good_and_bad_changes_of_one_key_take_effect_in_order(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    changes = [
        Change("t", {"id": 1}, {"n": 10}),
        Change("t", {"id": 1}, add={"n": 5000}),  # the check
        Change("t", {"id": 1}, add={"n": 1}),
        Change("t", {"id": 1}, {"word": "right"}),
        Change("t", {"id": 1}, add={"word": 1}),  # no number
        Change("t", {"id": 1}, add={"n": 1}),
    ]
    receipts = pipeline.write_many(changes)
    report = drain(pipeline)
    assert report.batches == 1
    assert [letter.event_id for letter in dead(pipeline)] == [receipts[1].event_id, receipts[4].event_id]
    assert scene.sql("SELECT n, word FROM t") == [(12, "right")]


def test_what_is_only_wrong_in_between_is_not_wrong(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    pipeline.write_many([good(1), Change("t", {"id": 1}, add={"n": 5000}), Change("t", {"id": 1}, add={"n": -4990})])
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT n FROM t") == [(11,)]


def test_a_group_is_applied_as_a_whole_or_not_at_all(scene: Scene) -> None:
    scene.sql(TABLE)
    scene.sql("CREATE TABLE log (id int PRIMARY KEY)")
    pipeline = scene.pipeline()
    pipeline.write_group([good(1), Change("log", insert={"id": 1})])
    bad = pipeline.write_group([good(2), Change("log", insert={"id": 2}), good(1), poison(3)])
    twice = pipeline.write_group([Change("log", insert={"id": 1}), good(1)])
    pipeline.write_group([good(4), good(4), Change("log", insert={"id": 4})])
    assert drain(pipeline).batches == 1
    assert [letter.event_id for letter in dead(pipeline)] == [bad.event_id, twice.event_id]
    assert scene.sql("SELECT id, n FROM t ORDER BY id") == [(1, 1), (4, 2)]
    assert scene.sql("SELECT id FROM log ORDER BY id") == [(1,), (4,)]


def test_a_group_that_is_right_in_its_own_order_only_is_applied(scene: Scene) -> None:
    scene.sql(TABLE)
    pipeline = scene.pipeline()
    pipeline.write_group([Change("t", {"id": 1}, {"other": 1}), Change("t", {"id": 2}, {"other": 2})])
    drain(pipeline)
    # folded, id 1 would get the value before id 2 has given it up
    pipeline.write_group([Change("t", {"id": 2}, delete=True), Change("t", {"id": 1}, {"other": 2})])
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT id, other FROM t") == [(1, 2)]


def test_an_append_that_is_refused_does_not_take_the_others_along(scene: Scene) -> None:
    scene.sql("CREATE TABLE log (id int PRIMARY KEY, word varchar(3))")
    pipeline = scene.pipeline()
    rows: list[dict[str, Any]] = [
        {"id": 1},
        {"id": 2, "word": "abc"},
        {"id": 1},
        {"id": 3, "word": "abcd"},
        {"word": "x"},
        {"id": 4},
    ]
    receipts = [pipeline.insert("log", row) for row in rows]
    drain(pipeline)
    assert [letter.event_id for letter in dead(pipeline)] == [receipts[i].event_id for i in (2, 3, 4)]
    assert scene.sql("SELECT id FROM log ORDER BY id") == [(1,), (2,), (4,)]
