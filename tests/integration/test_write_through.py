"""A change that is written through is committed when its call returns, behind what was pending; every read has it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline import Change, ChangeRefused, InvalidEvent, NotSettled, Pipeline
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.conftest import MakeValkey, both_types
from tests.integration.scene import Scene, drain, eventually
from tests.integration.test_reads_in_trouble import TimeMachine

pytestmark = both_types

KEY = {"id": 1}
ROW = "t:id=1"
WAITING = "SELECT pid FROM pg_locks WHERE NOT granted"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7, top int, name text UNIQUE)")
    return scene.pipeline()


def stored(scene: Scene, key: int = 1) -> Any:
    rows = scene.sql("SELECT n FROM t WHERE id = %s", key)
    return rows[0][0] if rows else None


def n_of(pipeline: Pipeline) -> Any:
    row = pipeline.read("t", KEY)
    return None if row is None else row["n"]


# --- order


def test_it_is_committed_when_the_call_returns_and_every_read_has_it(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")
    assert n_of(pipeline) == 5
    assert scene.cached(ROW)
    pipeline.write_through("t", KEY, add={"n": 10})
    assert stored(scene) == 15
    assert n_of(pipeline) == 15
    assert scene.cached(ROW) == {"id": 1, "n": 15, "top": None, "name": None}
    pipeline.write("t", KEY, add={"n": 100})
    assert n_of(pipeline) == 115


def test_it_comes_behind_all_that_was_accepted_for_its_row(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, set={"n": 1})
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write_through("t", KEY, add={"n": 10})
    assert stored(scene) == 12
    pipeline.write("t", KEY, set={"n": 3})
    pipeline.delete("t", KEY)
    pipeline.write_through("t", KEY, add={"n": 10})
    pipeline.write("t", KEY, add={"n": 100})
    assert (stored(scene), n_of(pipeline)) == (17, 117)
    drain(pipeline)
    assert stored(scene) == 117
    pipeline.write("t", KEY, set={"n": 0})
    pipeline.write_through("t", KEY, delete=True)
    assert stored(scene) is None
    assert pipeline.read("t", KEY) is None


def test_what_is_pending_in_a_batch_that_a_flusher_died_over_comes_first(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    config = scene.config(lease_seconds=0.05)
    assert in_child(config, die_at(Step.CLAIMED), lambda child: child.flush_shard(0)) == KILLED
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.write_through("t", KEY, set={"n": 50})
    assert stored(scene) == 50


def test_a_group_that_has_the_row_is_applied_first(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write_group([Change("t", {"id": 2}, add={"n": 1}), Change("t", KEY, add={"n": 1})], shard_by="g")
    pipeline.write_through("t", KEY, set={"n": 50}, shard_by="g")
    assert (stored(scene), stored(scene, 2)) == (50, 8)


def test_what_is_accepted_while_it_settles_does_not_hold_it_up(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    writer = scene.pipeline()

    def busy(step: Step) -> None:
        if step in {Step.COMMITTED, Step.ACKNOWLEDGED}:
            writer.write("t", KEY, add={"n": 1})

    with Pipeline(scene.config(), busy) as pipeline:
        pipeline.write("t", KEY, add={"n": 1})
        pipeline.write_through("t", KEY, add={"n": 1000}, timeout=10)
        drain(writer)
    assert stored(scene) > 1001


def test_a_row_of_one_shard_does_not_wait_for_another_row(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", {"id": 2}, add={"n": 1})
    pipeline.write_through("t", KEY, add={"n": 1})
    assert (stored(scene), stored(scene, 2)) == (8, None)


# --- what it does


def test_every_kind_of_change_does_what_the_flush_would_do(scene: Scene) -> None:
    scene.sql(
        "CREATE TABLE w (id uuid PRIMARY KEY, price numeric(10,2) DEFAULT 5, at timestamptz, tags text[], doc jsonb, "
        "took interval, percent text DEFAULT '100%%', kind varchar(5), raw bytea, "
        "two int GENERATED ALWAYS AS (2) STORED)"
    )
    pipeline = scene.pipeline()
    key, other = {"id": "6f1c7a0e-7d3a-4f3e-9a55-0d5a2d3b1f10"}, {"id": "6f1c7a0e-7d3a-4f3e-9a55-0d5a2d3b1f11"}
    now = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    changes: list[dict[str, Any]] = [
        {"add": {"price": Decimal("0.005")}, "max": {"at": now}, "set": {"tags": ["a", None, 'q"'], "doc": {"a": [1]}}},
        {"min": {"at": now - timedelta(days=1)}, "set": {"took": timedelta(days=-1, seconds=5), "raw": b"\x00\xff"}},
        {"set": {"percent": "%s %%", "kind": "a\nb"}},
        {},
    ]
    for change in changes:
        pipeline.write("w", key, **change)
        drain(pipeline)
        pipeline.write_through("w", other, **change)
    rows = scene.sql("SELECT * FROM w ORDER BY id")
    assert rows[0][1:] == rows[1][1:]
    assert pipeline.read("w", other) == {**(pipeline.read("w", key) or {}), "id": rows[1][0]}


def test_a_row_can_be_appended(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text DEFAULT 'none')")
    pipeline.write_through("log", insert={"what": "é %s"})
    pipeline.write_through("log", insert={})
    assert scene.sql("SELECT what FROM log ORDER BY id") == [("é %s",), ("none",)]


def test_what_is_wrong_with_its_arguments_is_said_before_anything_is_done(scene: Scene, pipeline: Pipeline) -> None:
    for arguments in (
        {"key": None, "set": {"n": 1}},
        {"key": KEY, "set": {"n": 1}, "add": {"n": 1}},
        {"key": KEY, "delete": True, "set": {"n": 1}},
        {"key": KEY, "insert": {"n": 1}},
        {"key": KEY, "set": {"n": object()}},
    ):
        with pytest.raises(InvalidEvent):
            pipeline.write_through("t", **arguments)
    with pytest.raises(InvalidEvent, match="PIPELINE_TABLES"):
        scene.pipeline(tables=["other"]).write_through("t", KEY, set={"n": 1})
    with pytest.raises(ChangeRefused, match="no table missing"):
        pipeline.write_through("missing", KEY, set={"n": 1})
    with pytest.raises(ChangeRefused, match="primary key or a unique index"):
        pipeline.write_through("t", {"n": 1}, set={"top": 1})


# --- two at once


def test_two_at_once_have_their_turns_one_after_the_other(scene: Scene, pipeline: Pipeline) -> None:
    with taken_by_another(scene, Step.CHANGED) as (go_on, _):
        with pytest.raises(NotSettled, match="another write_through of the row has not ended"):
            pipeline.write_through("t", KEY, add={"n": 10}, timeout=0.1)
        with pytest.raises(NotSettled, match="another write_through"):
            pipeline.write_through("t", KEY, add={"n": 10}, timeout=0.1)
        pipeline.write_through("t", {"id": 2}, add={"n": 10}, timeout=5)
        go_on()
        pipeline.write_through("t", KEY, add={"n": 10})
    assert stored(scene) == 1007 + 10
    assert n_of(pipeline) == 1017


@contextmanager
def taken_by_another(scene: Scene, stop: Step) -> Iterator[tuple[Callable[[], None], threading.Thread]]:
    """Another thread's ``write_through``, which stops at a step until it is told to go on."""
    reached, released = threading.Event(), threading.Event()

    def probe(step: Step) -> None:
        if step is stop:
            reached.set()
            assert released.wait(20)

    def work() -> None:
        with Pipeline(scene.config(), probe) as other:
            other.write_through("t", KEY, add={"n": 1000})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert reached.wait(20)
        yield released.set, thread
    finally:
        released.set()
        thread.join()


@pytest.mark.parametrize("stop", [Step.DROPPED, Step.CHANGED])
def test_while_it_is_under_way_the_old_row_is_read_and_not_cached(scene: Scene, pipeline: Pipeline, stop: Step) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")
    assert n_of(pipeline) == 5
    with taken_by_another(scene, stop) as (go_on, thread):
        for _ in range(3):
            assert n_of(pipeline) == 5
            assert pipeline.read_many("t", [KEY, {"id": 2}])[0] == {"id": 1, "n": 5, "top": None, "name": None}
            assert scene.cached(ROW) == {}
        pipeline.write("t", KEY, set={"top": 3})
        assert pipeline.read("t", KEY) == {"id": 1, "n": 5, "top": 3, "name": None}
        assert scene.cached(ROW) == {}
        go_on()
        thread.join()
        assert pipeline.read("t", KEY) == {"id": 1, "n": 1005, "top": 3, "name": None}


def test_a_delete_that_is_flushed_while_the_row_is_made_comes_after_it(scene: Scene, pipeline: Pipeline) -> None:
    with taken_by_another(scene, Step.CHANGED) as (go_on, thread):
        pipeline.delete("t", KEY)
        flusher = threading.Thread(target=drain, args=(pipeline,))
        flusher.start()
        eventually(lambda: not flusher.is_alive() or scene.sql(WAITING), "the flush neither ends nor waits")
        go_on()
        thread.join()
        assert pipeline.read("t", KEY) is None
        flusher.join()
    assert pipeline.read("t", KEY) is None
    assert stored(scene) is None


@pytest.mark.parametrize("stop", [Step.LOOKED, Step.FETCHED])
def test_a_reader_that_is_slower_than_it_leaves_no_older_row_in_the_cache(
    scene: Scene, pipeline: Pipeline, stop: Step
) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")

    def probe(step: Step) -> None:
        if step is stop:
            pipeline.write_through("t", KEY, add={"n": 10})

    with Pipeline(scene.config(), probe) as reader:
        assert n_of(reader) == (15 if stop is Step.LOOKED else 5)
    assert n_of(pipeline) == 15


@pytest.mark.parametrize("lost", ["the tickets", "all of Redis"])
def test_a_reader_that_comes_while_it_is_under_way_leaves_no_older_row_whatever_redis_loses(
    scene: Scene, pipeline: Pipeline, lost: str
) -> None:
    scene.sql("INSERT INTO t VALUES (1, 5)")
    with taken_by_another(scene, Step.CHANGED) as (go_on, thread):
        if lost == "all of Redis":
            scene.redis.flushall()
        else:
            scene.redis.delete(scene.keys.row + ROW)

        def probe(step: Step) -> None:
            if step is Step.FETCHED:  # it has the old row, and its ticket is still good
                go_on()
                thread.join()

        with Pipeline(scene.config(), probe) as reader:
            assert n_of(reader) == 5
    assert n_of(pipeline) == 1005


def test_a_redis_that_goes_back_in_time_while_it_is_under_way_brings_no_older_row_back(
    scene: Scene, make_valkey: MakeValkey, tmp_path: Path
) -> None:
    server = make_valkey(appendfsync="always")
    travel = TimeMachine(server, tmp_path)
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 7)")
    scene.sql("INSERT INTO t VALUES (1, 5)")
    pipeline = scene.pipeline(redis_url=server.url)
    pipeline.write("t", {"id": 2}, add={"n": 1})
    assert n_of(pipeline) == 5  # and is cached
    travel.save()

    def probe(step: Step) -> None:
        if step is Step.CHANGED:
            travel.go_back()
            assert n_of(other) == 5

    other = scene.pipeline(redis_url=server.url)
    with Pipeline(scene.config(redis_url=server.url), probe) as passing:
        passing.write_through("t", KEY, add={"n": 10})
    for reader in (other, scene.pipeline(redis_url=server.url)):
        for _ in range(2):
            assert n_of(reader) == 15
