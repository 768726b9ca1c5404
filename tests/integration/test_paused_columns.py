"""A column that does not exist holds back the events that name it, what follows on their rows, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from pipeline import Change, Pipeline
from pipeline.flush import End
from pipeline.pausing import MOST_COLUMNS
from pipeline.telemetry import Step
from tests.integration.scene import Scene, dead, drain, eventually

PAGE = "CREATE TABLE page (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql(PAGE)
    return scene.pipeline(batch_size=10)


def paused(pipeline: Pipeline) -> list[str]:
    return sorted(pipeline.status().shards[0].paused)


def flush_until(pipeline: Pipeline, condition: Callable[[], bool], what: str) -> None:
    def flushed() -> bool:
        pipeline.flush_shard(0)
        return condition()

    eventually(flushed, what)


def pages(scene: Scene) -> Sequence[tuple[int, ...]]:
    return scene.sql("SELECT id, n FROM page ORDER BY id")


# --- who waits, and who does not


def test_only_the_events_that_name_the_column_and_what_follows_on_their_rows_wait(
    scene: Scene, pipeline: Pipeline
) -> None:
    pipeline.write("page", {"id": 0}, set={"n": 1, "extra": "x"})
    for n in range(1, 101):
        pipeline.write("page", {"id": n}, set={"n": n})
    pipeline.write("page", {"id": 0}, add={"n": 10})
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert scene.sql("SELECT count(*), min(id) FROM page") == [(100, 1)]
    (shard,) = pipeline.status().shards
    assert (shard.pending, shard.parked, list(shard.paused)) == (2, 2, ["page.extra"])
    pipeline.write("page", {"id": 0}, add={"n": 100})
    pipeline.write("page", {"id": 101}, set={"n": 101})
    pipeline.flush_shard(0)
    assert scene.sql("SELECT count(*), min(id) FROM page") == [(101, 1)], "what follows on the row waits as well"
    scene.sql("ALTER TABLE page ADD COLUMN extra text")
    assert drain(pipeline).events == 3
    assert scene.sql("SELECT n, extra FROM page WHERE id = 0") == [(111, "x")]
    assert dead(pipeline) == []
    assert pipeline.status().healthy
    assert scene.redis.keys("pipeline.held.*") == scene.redis.keys("pipeline.overlay.*") == []


def test_a_row_is_written_in_order_although_every_third_of_its_events_waits(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE seen (place bigint GENERATED ALWAYS AS IDENTITY, id int, n int)")
    scene.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.seen (id, n) VALUES (NEW.id, NEW.n); RETURN NULL; END $$"
    )
    scene.sql("CREATE TRIGGER note AFTER INSERT OR UPDATE ON page FOR EACH ROW EXECUTE FUNCTION note()")
    for n in range(60):
        extra = {"extra": n} if n % 3 == 0 and n % 5 == 1 else {}
        pipeline.write("page", {"id": n % 5}, set={"n": n, **extra})
        if n % 20 == 0:
            pipeline.flush_shard(0)
    pipeline.flush_shard(0)
    assert [id_ for id_, _ in pages(scene)] == [0, 1, 2, 3, 4], "the events before the first that waits are written"
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    pipeline.write("page", {"id": 1}, set={"n": 60})
    drain(pipeline)
    for id_ in range(5):
        seen = [n for (n,) in scene.sql("SELECT n FROM seen WHERE id = %s ORDER BY place", id_)]
        assert seen == sorted(seen)
    assert scene.sql("SELECT n, extra FROM page WHERE id = 1") == [(60, 51)]


@pytest.mark.parametrize(
    "change",
    [
        Change("page", {"id": 1}, set={"extra": 1}),
        Change("page", {"id": 1}, add={"extra": 1}),
        Change("page", {"id": 1}, max={"extra": 1}),
        Change("page", {"id": 1}, min={"extra": 1}),
        Change("page", {"extra": 1}),
        Change("page", {"extra": 1}, delete=True),
        Change("page", insert={"id": 1, "extra": 1}),
    ],
    ids=["set", "add", "max", "min", "key", "delete", "insert"],
)
def test_a_column_is_missed_wherever_a_change_names_it(scene: Scene, pipeline: Pipeline, change: Change) -> None:
    pipeline.write_group([change], shard_by="one")
    pipeline.write_group([Change("page", insert={"id": 2})], shard_by="one")
    pipeline.write_group([Change("page", {"id": 3})], shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert pages(scene) == [(2, 0), (3, 0)]
    assert paused(pipeline) == ["page.extra"]
    scene.sql("ALTER TABLE page ADD COLUMN extra int UNIQUE")
    scene.sql("ALTER TABLE page ALTER COLUMN id SET DEFAULT 1")
    drain(pipeline)
    assert dead(pipeline) == []
    assert scene.sql("SELECT count(*) FROM page WHERE id = 1") == [(0 if change.delete else 1,)]


def test_an_event_of_several_tables_waits_as_a_whole(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE other (id int PRIMARY KEY, n int)")
    for n in range(3):
        extra = {"extra": n} if n == 1 else {}
        group = [Change("other", {"id": n}, {"n": n}), Change("page", {"id": n}, {"n": n, **extra})]
        pipeline.write_group(group, shard_by="one")
        pipeline.write("other", {"id": n}, add={"n": 10}, shard_by="one")
    pipeline.flush_shard(0)
    assert scene.sql("SELECT id, n FROM other ORDER BY id") == [(0, 10), (2, 12)]
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    drain(pipeline)
    assert scene.sql("SELECT id, n FROM other ORDER BY id") == [(0, 10), (1, 11), (2, 12)]
    assert pages(scene) == [(0, 0), (1, 1), (2, 2)]


def test_a_child_whose_parent_waits_for_a_column_is_no_dead_letter(scene: Scene) -> None:
    scene.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    scene.sql("CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent)")
    pipeline = scene.pipeline(retry_attempts=2)
    pipeline.write("parent", {"id": 1}, set={"name": "x"})
    pipeline.write("parent", {"id": 2})
    pipeline.write("child", {"id": 1}, set={"parent": 1})
    for _ in range(10):
        pipeline.flush_shard(0)
    assert paused(pipeline) == ["child", "parent.name"]
    assert scene.sql("SELECT id FROM parent") == [(2,)]
    scene.sql("ALTER TABLE parent ADD COLUMN name text")
    drain(pipeline)
    assert scene.sql("SELECT parent.name, child.id FROM parent JOIN child ON parent = parent.id") == [("x", 1)]
    assert dead(pipeline) == []


def test_a_column_that_goes_away_under_a_running_flusher_pauses_nothing_else(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    pipeline.write("page", {"id": 1}, set={"extra": 1})
    drain(pipeline)
    scene.sql("ALTER TABLE page RENAME COLUMN extra TO elsewhere")
    pipeline.write("page", {"id": 1}, set={"extra": 2})
    pipeline.write("page", {"id": 2}, set={"n": 2})
    pipeline.flush_shard(0)
    assert paused(pipeline) == ["page.extra"]
    assert pages(scene) == [(1, 0), (2, 2)]
    scene.sql("ALTER TABLE page RENAME COLUMN elsewhere TO extra")
    drain(pipeline)
    assert scene.sql("SELECT extra FROM page WHERE id = 1") == [(2,)]


def test_two_spellings_of_a_table_hold_each_other_up_no_more_than_two_tables(scene: Scene, pipeline: Pipeline) -> None:
    for n, table in enumerate(["page", "public.page"] * 4):
        extra = {"extra": n} if n in {1, 4} else {}
        pipeline.write_group([Change(table, {"id": n}, {"n": n, **extra})], shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    assert paused(pipeline) == ["page.extra", "public.page.extra"]
    assert [id_ for id_, _ in pages(scene)] == [0, 2, 3, 5, 6, 7]
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    drain(pipeline)
    assert [id_ for id_, _ in pages(scene)] == list(range(8))


# --- several columns


def test_a_column_that_is_there_now_does_not_wait_for_another_that_one_of_its_events_names(
    scene: Scene, pipeline: Pipeline
) -> None:
    pipeline.write("page", {"id": 1}, set={"extra": 1, "typo": 1})
    pipeline.write("page", {"id": 2}, set={"extra": 2})
    pipeline.flush_shard(0)
    assert paused(pipeline) == ["page.extra"]
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    flush_until(pipeline, lambda: scene.sql("SELECT id FROM page") == [(2,)], "the one without typo")
    assert paused(pipeline) == ["page.typo"]
    scene.sql("ALTER TABLE page ADD COLUMN typo int")
    drain(pipeline)
    assert scene.sql("SELECT id, extra, typo FROM page ORDER BY id") == [(1, 1, 1), (2, 2, None)]


def write_with_columns(pipeline: Pipeline, count: int) -> None:
    for n in range(count):
        pipeline.write("page", {"id": n}, set={"n": n, f"c{n}": n})
        pipeline.write("page", {"id": 1000 + n}, set={"n": n})


def add_columns(scene: Scene, numbers: Sequence[int]) -> None:
    scene.sql("ALTER TABLE page " + ", ".join(f"ADD COLUMN c{n} int" for n in numbers))


def test_so_many_columns_may_be_missing_and_nothing_else_waits(scene: Scene, pipeline: Pipeline) -> None:
    write_with_columns(pipeline, MOST_COLUMNS)
    pipeline.flush_shard(0)
    assert len(paused(pipeline)) == MOST_COLUMNS
    assert scene.sql("SELECT count(*), min(id) FROM page") == [(MOST_COLUMNS, 1000)]


def test_a_flood_of_missing_columns_pauses_the_table(scene: Scene, pipeline: Pipeline) -> None:
    flood = 3 * MOST_COLUMNS
    write_with_columns(pipeline, flood)
    pipeline.flush_shard(0)
    assert len(paused(pipeline)) == MOST_COLUMNS + 1
    assert "page" in paused(pipeline)
    assert pipeline.status().shards[0].pending == pipeline.status().shards[0].parked
    add_columns(scene, range(flood))
    drain(pipeline)
    assert [id_ for id_, _ in pages(scene)] == [*range(flood), *range(1000, 1000 + flood)]
    assert dead(pipeline) == []


def test_a_table_that_too_many_missing_columns_have_paused_flows_when_some_of_them_have_come(
    scene: Scene, pipeline: Pipeline
) -> None:
    write_with_columns(pipeline, MOST_COLUMNS + 1)
    pipeline.flush_shard(0)
    assert "page" in paused(pipeline)
    add_columns(scene, range(MOST_COLUMNS))
    flush_until(pipeline, lambda: paused(pipeline) == [f"page.c{MOST_COLUMNS}"], "only the last is missing")
    assert scene.sql("SELECT count(*) FROM page") == [(2 * MOST_COLUMNS + 1,)]
    add_columns(scene, [MOST_COLUMNS])
    drain(pipeline)
    assert scene.sql("SELECT count(*) FROM page") == [(2 * MOST_COLUMNS + 2,)]


# --- and tables


def test_a_table_that_goes_away_is_paused_besides_its_column_and_both_come_back(
    scene: Scene, pipeline: Pipeline
) -> None:
    pipeline.write("page", {"id": 1}, set={"n": 1, "extra": 1})
    pipeline.flush_shard(0)
    scene.sql("ALTER TABLE page RENAME TO elsewhere")
    pipeline.write("page", {"id": 1}, add={"n": 10})
    pipeline.write("page", {"id": 2}, set={"n": 2})
    for _ in range(5):
        pipeline.flush_shard(0)
    assert paused(pipeline) == ["page", "page.extra"]
    scene.sql("ALTER TABLE elsewhere RENAME TO page")
    flush_until(pipeline, lambda: paused(pipeline) == ["page.extra"], "the table")
    assert pages(scene) == [(2, 2)]
    pipeline.write("page", {"id": 1}, add={"n": 100})
    pipeline.flush_shard(0)
    assert pages(scene) == [(2, 2)], "rows are held again since the table came back"
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    drain(pipeline)
    assert pages(scene) == [(1, 111), (2, 2)]


def test_a_column_that_a_trigger_misses_pauses_the_table(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql(
        "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN EXECUTE 'SELECT nothing FROM page'; RETURN NEW; END $$"
    )
    scene.sql("CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON page FOR EACH ROW EXECUTE FUNCTION trap()")
    for n in range(20):
        pipeline.write("page", {"id": n})
    pipeline.flush_shard(0)
    assert paused(pipeline) == ["page"]
    scene.sql("DROP TRIGGER trap ON page")
    drain(pipeline)
    assert scene.sql("SELECT count(*) FROM page") == [(20,)]


def test_a_table_that_was_paused_although_only_a_column_is_missing_is_paused_for_that_alone(
    scene: Scene, pipeline: Pipeline
) -> None:
    scene.sql("ALTER TABLE page RENAME TO elsewhere")
    pipeline.write("page", {"id": 1}, set={"extra": 1})
    pipeline.write("page", {"id": 2})
    pipeline.flush_shard(0)
    assert paused(pipeline) == ["page"]
    scene.sql("ALTER TABLE elsewhere RENAME TO page")
    flush_until(pipeline, lambda: pages(scene) == [(2, 0)], "what names no missing column")
    assert paused(pipeline) == ["page.extra"]


# --- how it is bounded, and what is said of it


def test_a_missing_column_is_looked_up_less_and_less_often(scene: Scene, pipeline: Pipeline) -> None:
    rests = []
    for n in range(4):
        scene.sql("ALTER TABLE page DROP COLUMN IF EXISTS extra")
        pipeline.write("page", {"id": n}, set={"extra": n})
        pipeline.flush_shard(0)
        (column,) = scene.buffer().states()[0].paused
        rests.append(column.probes)
        scene.sql("ALTER TABLE page ADD COLUMN extra int")
        drain(pipeline)
    assert rests == sorted(set(rests)), "every pause rests for longer than the one before"


def test_a_batch_with_rows_on_which_something_waits_asks_for_its_own_rows_only(scene: Scene) -> None:
    scene.sql(PAGE)
    pipeline = scene.pipeline()
    pipeline.write_many(Change("page", {"id": n}, {"extra": n}) for n in range(2500))
    pipeline.flush_shard(0)
    assert scene.redis.scard(scene.keys.held) == 2500
    pipeline.write_many(Change("page", {"id": n}, {"n": 7}) for n in range(2400, 2600))
    buffer = scene.buffer()
    claim = buffer.claim(0, "me")
    assert getattr(claim, "held", None) == 2500, "a number, and not the rows"
    buffer.release(0, "me")
    pipeline.flush_shard(0)
    assert scene.sql("SELECT count(*), min(id) FROM page") == [(100, 2500)]
    scene.sql("ALTER TABLE page ADD COLUMN extra int")
    drain(pipeline)
    assert scene.sql("SELECT count(*), sum(n), count(extra) FROM page") == [(2600, 1400, 2500)]


def test_the_column_is_named_in_the_log_and_in_the_status_and_no_value_is(
    scene: Scene, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    name = 'ev\nil "column"'
    pipeline.write("page", {"id": 1}, set={name: "alice@secret.example"})
    with caplog.at_level(logging.DEBUG, logger="pipeline"):
        report = pipeline.flush_shard(0)
    told = f"{caplog.messages} {report} {pipeline.status()} {pipeline.doctor()}"
    assert all("\n" not in message for message in caplog.messages)
    assert paused(pipeline) == ['page.ev\\nil "column"']
    assert 'column page.ev\\nil "column" is paused' in caplog.text
    assert "alice" not in told
    assert "alice" not in str(scene.redis.hgetall(scene.keys.paused))
    assert not pipeline.status().healthy


def test_it_is_told_once_when_a_column_is_paused_and_once_when_it_is_there(scene: Scene) -> None:
    scene.sql(PAGE)
    steps: list[Step] = []
    with Pipeline(scene.config(), steps.append) as pipeline:
        for n in range(50):
            pipeline.write("page", {"id": n}, set={"extra": n})
            pipeline.flush_shard(0)
        assert (steps.count(Step.PAUSED), steps.count(Step.RESUMED)) == (1, 0)
        scene.sql("ALTER TABLE page ADD COLUMN extra int")
        drain(pipeline)
    assert (steps.count(Step.PAUSED), steps.count(Step.RESUMED)) == (1, 1)
