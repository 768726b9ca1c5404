"""Batches that stay columns from their messages to COPY: what is written is what their events say, in order."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import ceil, log2
from random import Random
from typing import Any

import pytest

from pipeline import Change, Pipeline
from pipeline.core.decoding import Decoder
from pipeline.flush import End
from tests.conformance.lane import TASK, batch_of, message_of
from tests.integration.scene import Scene, dead, drain, eventually

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SCHEMA = [
    "CREATE TABLE parent (id int PRIMARY KEY, name text)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE, n int DEFAULT 10)",
    "CREATE TABLE page (id int PRIMARY KEY, n int DEFAULT 0 CHECK (n < 1000), name text, at timestamptz, x jsonb)",
    "CREATE TABLE \"Log\" (what text DEFAULT 'nothing', n numeric)",
]
TABLES = ["parent", "child", "page", '"Log"']


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    for statement in SCHEMA:
        scene.sql(statement)
    return scene.pipeline(batch_size=1000, flush_threshold=0)


def contents(scene: Scene) -> dict[str, list[str]]:
    return {table: sorted(map(repr, scene.sql(f"SELECT * FROM {table}"))) for table in TABLES}


# --- any batch


def page(random: Random) -> Change:
    key = {"id": random.randrange(40)}
    return random.choice(
        [
            Change("page", key, add={"n": random.choice([1, 2, -3])}),
            Change("page", key, {"name": random.choice(["x", "y", None]), "at": NOON + timedelta(hours=key["id"])}),
            Change("public.page", key, {"at": None, "name": "z"}),
            Change("page", key, max={"n": random.randrange(100)}, min={"at": NOON}),
            Change("page", key, {"x": random.choice([1, True, "1", {"a": [1]}, None, 1.5])}),
            Change("page", {"id": str(key["id"])}, delete=True),
            Change("page", key),
        ]
    )


def any_change(random: Random, forms: int) -> Change:
    kind = random.randrange(forms)
    number = random.randrange(30)
    return [
        lambda: Change("page", {"id": number}, add={"n": 1}),
        lambda: page(random),
        lambda: Change('"Log"', insert={"what": f"w{number}", "n": Decimal(number) / 4}),
        lambda: Change('"Log"', insert={"n": number}),
        lambda: Change('"Log"', insert={}),
        lambda: Change("parent", {"id": number}, {"name": f"p{number}"}),
        lambda: Change("child", {"id": number % 7}, {"parent": None}, add={"n": 1}),
        lambda: Change("parent", {"id": number}, delete=True),
        lambda: Change("child", {"id": number % 7}, {"parent": 1000 + number % 2}),
    ][kind]()


def written(scene: Scene, events: Sequence[list[Change] | bytes], batch_size: int) -> object:
    """The tables, and why events died, when ``events`` are written in batches of this size."""
    scene.sql(f"TRUNCATE {', '.join(TABLES)}, pipeline.dead_letter CASCADE")
    scene.sql("INSERT INTO parent (id) VALUES (1000), (1001)")
    pipeline = scene.pipeline(batch_size=batch_size, flush_threshold=0)
    for event in events:
        if isinstance(event, bytes):
            scene.redis.lpush(scene.keys.events, event)
        elif len(event) == 1:
            pipeline.write_many(event)
        else:
            pipeline.write_group(event, shard_by="x")
    drain(pipeline)
    assert scene.redis.keys("pipeline.overlay.*") == []
    return contents(scene), [letter.reason for letter in dead(pipeline)]


@pytest.mark.parametrize("forms", [1, 2, 5, 9])
def test_a_large_batch_writes_what_small_ones_write_in_which_nothing_is_alike(
    scene: Scene, pipeline: Pipeline, forms: int
) -> None:
    drain(pipeline)
    random = Random(forms)  # noqa: S311
    events: list[list[Change] | bytes] = [[any_change(random, forms)] for _ in range(900)]
    for _ in range(4 * (forms > 1)):
        events.insert(random.randrange(900), [page(random), any_change(random, forms), page(random)])
        events.insert(random.randrange(900), b"{")
    small = written(scene, events, 3)
    assert written(scene, events, 1000) == small
    assert written(scene, events, 100) == small


# --- one odd event


def counters(start: int, count: int) -> list[Change]:
    return [Change("page", {"id": n}, add={"n": 1}) for n in range(start, start + count)]


POISON: dict[str, Change] = {
    "a check": Change("page", {"id": 5000}, add={"n": 5000}),
    "a number out of range": Change("page", {"id": 5000}, add={"n": 2**40}),
    "another table, no parent": Change("child", {"id": 1}, {"parent": 7}),
    "an increment of a text": Change("page", {"id": 5000}, add={"name": 1}),
    "a value of another type": Change("page", {"id": 5000}, {"at": 7}),
    "a key of another type": Change("page", {"id": "x"}, add={"n": 1}),
    "a key that is none": Change("page", {"name": "x"}, add={"n": 1}),
}


@pytest.mark.parametrize("place", [0, 511, 599])
@pytest.mark.parametrize("kind", POISON)
def test_exactly_the_poison_in_a_block_dies(scene: Scene, pipeline: Pipeline, kind: str, place: int) -> None:
    drain(pipeline)
    changes = counters(0, 600)
    changes[place] = POISON[kind]
    messages = [message_of(f"e{n}", b"[%d,0]" % (n + 1), change) for n, change in enumerate(changes)]
    decoder = Decoder(TASK)
    decoder.decode(messages)
    entries = decoder.decode(messages)
    assert sum(block.size for block, _ in entries.blocks) >= 560
    applied = scene.store().apply(batch_of(entries, 1, final=True))
    assert (applied.dead, applied.rows) == (frozenset({place}), 599)
    assert applied.savepoints <= 3 + 2 * ceil(log2(600))
    assert scene.sql("SELECT event_id FROM pipeline.dead_letter") == [(f"e{place}",)]
    expected = {n for n in range(600) if n != place}
    assert {n for (n,) in scene.sql("SELECT id FROM page WHERE n = 1")} == expected


def test_a_bad_value_that_was_overwritten_is_not_looked_at(scene: Scene, pipeline: Pipeline) -> None:
    """It was the only one of its type in the column. Nothing is wrong with the batch."""
    pipeline.write_many(Change("page", {"id": n % 10}, {"name": n if n == 5 else f"n{n}"}) for n in range(40))
    report = pipeline.flush_shard(0)
    assert (report.rows, report.dead, report.savepoints) == (10, 0, 1)
    assert scene.sql("SELECT id, name FROM page ORDER BY id") == [(n, f"n{n + 30}") for n in range(10)]


def test_broken_and_refused_messages_leave_a_batch_of_columns_as_it_is(scene: Scene, pipeline: Pipeline) -> None:
    guarded = scene.pipeline(batch_size=1000, flush_threshold=0, tables=("page", "child"))
    guarded.write_many(counters(0, 100))
    scene.redis.lpush(scene.keys.events, b"{")
    outside = message_of("outside", b"[1,0]", Change("parent", {"id": 1})).replace(b'"pipeline":[1,0]', b'"x":0')
    scene.redis.lpush(scene.keys.events, outside)
    welcome = message_of("welcome", b"[1,0]", Change("page", {"id": 7}, {"name": "x"}))
    scene.redis.lpush(scene.keys.events, welcome.replace(b'"pipeline":[1,0]', b'"x":0'))
    guarded.write_many(counters(50, 100))
    report = drain(guarded)
    assert (report.batches, report.events, report.dead) == (1, 203, 2)
    assert sorted(letter.message for letter in dead(pipeline)) == sorted([b"{", outside])
    assert scene.sql("SELECT n, count(*), max(name) FROM page GROUP BY n ORDER BY n") == [(1, 100, "x"), (2, 50, None)]
    assert scene.sql("SELECT * FROM parent") == []
    assert scene.redis.keys("pipeline.overlay.*") == []


# --- order


VALUES: dict[str, Callable[[int], Any]] = {
    "a new type in every second": lambda n: f"n{n}" if n % 2 else None,
    "a new type at first": lambda n: None if n < 60 else f"n{n}",
    "a new type at last": lambda n: f"n{n}" if n < 180 else None,
}


@pytest.mark.parametrize("kind", VALUES)
def test_the_last_value_of_a_row_wins_whatever_types_its_values_have(
    scene: Scene, pipeline: Pipeline, kind: str
) -> None:
    pipeline.write_many(Change("page", {"id": n}, {"name": "first"}) for n in range(64))
    pipeline.flush_shard(0)
    pipeline.write_many(Change("page", {"id": n % 7}, {"name": VALUES[kind](n)}) for n in range(200))
    assert drain(pipeline).batches == 1
    last = {n % 7: VALUES[kind](n) for n in range(200)}
    assert scene.sql("SELECT id, name FROM page WHERE id < 7 ORDER BY id") == sorted(last.items())
    assert scene.redis.keys("pipeline.overlay.*") == []


def test_an_event_that_comes_back_too_late_leaves_its_neighbours_columns_as_they_are(scene: Scene) -> None:
    scene.sql(SCHEMA[2])
    pipeline = scene.pipeline(lease_seconds=0.05, batch_size=1000, flush_threshold=0)
    changes = [Change("page", {"id": n % 10}, {"name": f"n{n}"}) for n in range(60)]
    pipeline.write_many(changes[:40])
    taken = scene.redis.rpop(scene.keys.events)
    eventually(lambda: pipeline.flush_shard(0).end is End.EMPTY, "it waits for ever")
    pipeline.write_many(changes[40:])
    scene.redis.rpush(scene.keys.events, taken)
    drain(pipeline)
    assert scene.sql("SELECT id, name FROM page ORDER BY id") == [(n, f"n{n + 50}") for n in range(10)]
    (letter,) = dead(pipeline)
    assert letter.message == taken
    assert "came back too late" in letter.reason
    assert scene.redis.keys("pipeline.overlay.*") == []


def test_messages_in_another_order_take_effect_in_that_of_their_numbers(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write_many(Change("page", {"id": n % 10}, {"name": f"n{n}"}) for n in range(100))
    queued = scene.queued()
    scene.redis.delete(scene.keys.events)
    scene.redis.lpush(scene.keys.events, *Random(1).sample(queued, len(queued)))  # noqa: S311
    drain(pipeline)
    assert scene.sql("SELECT id, name FROM page ORDER BY id") == [(n, f"n{n + 90}") for n in range(10)]


# --- tables and names


def test_a_paused_table_waits_and_the_columns_of_the_others_are_written(scene: Scene, pipeline: Pipeline) -> None:
    for n in range(0, 100, 10):
        pipeline.write_many(counters(n, 10))
        pipeline.write_many(Change("late", {"id": k % 4}, {"n": n + k}) for k in range(10))
        pipeline.write_many(Change("late", insert={"id": 1000 + n + k}) for k in range(10))
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert scene.sql("SELECT count(*), sum(n) FROM page") == [(100, 100)]
    (shard,) = pipeline.status().shards
    assert (shard.parked, list(shard.paused)) == (200, ["late"])
    scene.sql("CREATE TABLE late (id int PRIMARY KEY, n int)")
    drain(pipeline)
    assert dead(pipeline) == []
    last = {k % 4: 90 + k for k in range(10)}
    assert scene.sql("SELECT id, n FROM late WHERE id < 4 ORDER BY id") == sorted(last.items())
    assert scene.sql("SELECT count(*) FROM late WHERE id >= 1000") == [(100,)]
    assert scene.redis.keys("pipeline.overlay.*") == []


def test_rows_of_nothing_but_defaults_are_appended_among_others(scene: Scene, pipeline: Pipeline) -> None:
    changes = [
        [Change('"Log"', insert={}), Change('"Log"', insert={"n": n}), Change('"Log"', insert={"what": "x", "n": n})]
        for n in range(40)
    ]
    for _ in range(2):
        pipeline.write_many(change for each in changes for change in each)
        assert drain(pipeline).rows == 120
    expected = [("nothing", 80, 40), ("x", 40 * 2, 80)]
    found = scene.sql('SELECT what, count(*), count(n) FROM "Log" GROUP BY what ORDER BY what')
    assert found == [("nothing", 160, 80), expected[1]]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "__type__", "c0", "table", "größe", "a b%s{}"])
def test_many_changes_of_a_column_are_written_whatever_it_is_called(scene: Scene, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    scene.sql(f"CREATE TABLE odd ({quoted} int PRIMARY KEY, n int)")
    pipeline = scene.pipeline(batch_size=1000, flush_threshold=0)
    for _ in range(3):
        pipeline.write_many(Change("odd", {name: n}, add={"n": 1}) for n in range(64))
        drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT count(*), sum(n) FROM odd") == [(64, 192)]


def test_a_column_that_the_table_lacks_pauses_only_who_names_it(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write_many(counters(0, 50))
    pipeline.write_many(Change("public.page", {"id": n}, {"new": n}) for n in range(50, 100))
    pipeline.write_many(Change("page", {"id": n}, {"name": "x"}) for n in range(100, 150))
    pipeline.flush_shard(0)
    assert scene.sql("SELECT count(*) FROM page") == [(100,)]
    scene.sql("ALTER TABLE page ADD new int")
    drain(pipeline)
    assert scene.sql("SELECT count(*), count(new) FROM page") == [(150, 50)]
    assert dead(pipeline) == []
