"""Reads while something is down, full, dead or older than it was."""

import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    BufferUnavailable,
    Change,
    InvalidRead,
    Pipeline,
    StaleRow,
    StoreError,
    StoreUnavailable,
)
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.flush import End
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.conftest import MakeValkey, both_types
from tests.integration.scene import Scene, drain, eventually

pytestmark = both_types

KEY = {"id": 1}
ROW = "t:id=1"
TABLE = "CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, top int, name text)"


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql(TABLE)
    scene.sql("INSERT INTO t (id) SELECT generate_series(1, 9)")
    return scene.pipeline()


def n_of(pipeline: Pipeline, key: dict[str, Any] = KEY) -> Any:
    row = pipeline.read("t", key)
    return None if row is None else row["n"]


# --- PostgreSQL is down


@pytest.mark.usefixtures("short_patience")
def test_without_postgresql_hits_are_served_and_a_miss_is_an_error(
    scene: Scene, pipeline: Pipeline, postgres: Postgres
) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    assert n_of(pipeline) == 1
    scene.disconnect()
    postgres.stop()
    try:
        pipeline.write("t", KEY, add={"n": 1})
        assert n_of(pipeline) == 2
        pipeline.write("t", {"id": 2}, add={"n": 1})
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                pipeline.read("t", {"id": 2})
        with pytest.raises(StoreUnavailable):
            pipeline.read_many("t", [KEY, {"id": 2}])
    finally:
        postgres.start()
    assert n_of(pipeline, {"id": 2}) == 1


# --- Redis is down, full or was restarted


def test_without_redis_a_read_is_an_error_unless_an_old_row_will_do(
    pipeline: Pipeline, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    valkey.stop()
    try:
        with pytest.raises(BufferUnavailable):
            pipeline.read("t", KEY)
        with pytest.raises(BufferUnavailable):
            pipeline.read_many("t", [KEY])
        assert caplog.messages == []
        with caplog.at_level(logging.WARNING, "pipeline.reader"):
            row = pipeline.read("t", KEY, allow_stale=True)
            rows = pipeline.read_many("t", [KEY, {"id": 99}], allow_stale=True)
        assert isinstance(row, StaleRow)
        assert row == {"id": 1, "n": 0, "top": None, "name": None}
        assert rows == [row, None]
        assert [message.partition(":")[0] for message in caplog.messages] == [
            f"{count} row(s) of t are read from PostgreSQL alone, without what is pending" for count in (1, 2)
        ]
        with pytest.raises(InvalidRead):
            pipeline.read("t", {"n": 1}, allow_stale=True)
    finally:
        valkey.start()
    assert n_of(pipeline) == 1


def test_a_full_redis_is_read_and_nothing_new_is_cached(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    pipeline.read("t", KEY)
    pipeline.write("t", {"id": 2}, add={"n": 2})
    scene.redis.config_set("maxmemory", 1)
    try:
        assert (n_of(pipeline), n_of(pipeline, {"id": 2})) == (1, 2)
        assert scene.redis.keys("pipeline.row*") == [f"{scene.keys.row}{ROW}".encode()]
    finally:
        scene.redis.config_set("maxmemory", 0)


class TimeMachine:
    """A Redis of its own that restarts with what it had on its disk at an earlier time."""

    def __init__(self, server: Valkey, directory: Path) -> None:
        self._server = server
        self._saved = directory / "saved"

    def save(self) -> None:
        shutil.rmtree(self._saved, ignore_errors=True)
        shutil.copytree(self._server.directory / "appendonlydir", self._saved)

    def go_back(self) -> None:
        self._server.kill()
        shutil.rmtree(self._server.directory / "appendonlydir")
        shutil.copytree(self._saved, self._server.directory / "appendonlydir")
        self._server.start()


@pytest.fixture
def machine(make_valkey: MakeValkey, tmp_path: Path) -> tuple[TimeMachine, str]:
    server = make_valkey(appendfsync="always")
    return TimeMachine(server, tmp_path), server.url


def test_a_row_that_was_cached_before_redis_went_back_in_time_is_not_believed(
    scene: Scene, machine: tuple[TimeMachine, str]
) -> None:
    travel, redis_url = machine
    scene.sql(TABLE)
    pipeline = scene.pipeline(redis_url=redis_url)
    pipeline.write("t", KEY, add={"n": 1})
    drain(pipeline)
    assert n_of(pipeline) == 1  # and is cached, for an hour
    travel.save()
    pipeline.write("t", KEY, add={"n": 10})
    drain(pipeline)
    travel.go_back()
    assert n_of(scene.pipeline(redis_url=redis_url)) == 11
    pipeline.write("t", KEY, add={"n": 100})
    assert n_of(pipeline) == 111
    drain(pipeline)
    assert n_of(pipeline) == 111 == scene.sql("SELECT n FROM t")[0][0]


def test_what_is_pending_again_after_redis_went_back_in_time_counts_once(
    scene: Scene, machine: tuple[TimeMachine, str]
) -> None:
    travel, redis_url = machine
    scene.sql(TABLE)
    scene.sql("INSERT INTO t (id) VALUES (1)")
    pipeline = scene.pipeline(redis_url=redis_url)
    pipeline.write("t", KEY, add={"n": 1})
    travel.save()
    drain(pipeline)
    pipeline.write("t", KEY, add={"n": 10}, event_id="ten")
    drain(pipeline)
    travel.go_back()
    for flushed in (False, True):  # nobody has noticed yet; then the flush has
        for _ in range(2):
            assert n_of(pipeline) == 11
        pipeline.write("t", KEY, add={"n": 10}, event_id=f"ten{' again' if flushed else ''}")
        expected = 21 if flushed else 11
        for _ in range(2):
            assert n_of(pipeline) == expected
        drain(pipeline)
        assert scene.sql("SELECT n FROM t") == [(expected,)]
    pipeline.write("t", KEY, add={"n": 100})
    assert n_of(pipeline) == 121


# --- flushers die, tables are paused, events are refused


@pytest.mark.parametrize("step", [Step.CLAIMED, Step.COMMITTING, Step.COMMITTED])
@pytest.mark.parametrize("cached", [True, False])
def test_a_flusher_that_dies_neither_hides_nor_doubles_what_is_read(
    scene: Scene, pipeline: Pipeline, step: Step, *, cached: bool
) -> None:
    pipeline.write_group(
        [Change("t", KEY, add={"n": 1}, max={"top": 5}), Change("t", {"id": 2}, add={"n": 2})], shard_by="one"
    )
    pipeline.write("t", KEY, add={"n": 10}, set={"name": "x"})
    pipeline.delete("t", {"id": 3})
    pipeline.write("t", {"id": 77}, set={"name": "new"})
    keys = [{"id": n} for n in (1, 2, 3, 77)]
    expected = [
        {"id": 1, "n": 11, "top": 5, "name": "x"},
        {"id": 2, "n": 2, "top": None, "name": None},
        None,
        {"id": 77, "n": 0, "top": None, "name": "new"},
    ]
    if cached:
        assert pipeline.read_many("t", keys) == expected
    config = scene.config(lease_seconds=0.02)
    assert in_child(config, die_at(step), lambda child: child.flush_shard(0)) == KILLED
    assert pipeline.read_many("t", keys) == expected
    pipeline.write("t", KEY, add={"n": 100})
    assert n_of(pipeline) == 111
    drain(scene.pipeline(lease_seconds=0.02))
    assert n_of(pipeline) == 111
    assert scene.sql("SELECT n, top, name FROM t WHERE id = 1") == [(111, 5, "x")]


def test_what_is_set_aside_is_read_all_the_same(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write_group([Change("t", KEY, add={"n": 1}), Change("missing", {"id": 1}, set={"n": 1})], shard_by="one")
    assert pipeline.flush_shard(0).end is End.PAUSED
    pipeline.write("t", KEY, add={"n": 10})
    assert pipeline.flush_shard(0).end is End.PAUSED
    for _ in range(2):
        assert n_of(pipeline) == 11
    with pytest.raises(InvalidRead, match="no table missing"):
        pipeline.read("missing", KEY)
    scene.sql("CREATE TABLE missing (id int PRIMARY KEY, n int)")
    drain(pipeline)
    assert n_of(pipeline) == 11


def test_a_row_whose_changes_wait_for_a_column_is_an_error_and_not_a_wrong_row(
    scene: Scene, pipeline: Pipeline
) -> None:
    pipeline.write("t", KEY, set={"later": 1})
    assert pipeline.flush_shard(0).end is End.PAUSED
    with pytest.raises(StoreError, match="no column later"):
        pipeline.read("t", KEY)
    scene.sql("ALTER TABLE t ADD later int")
    assert pipeline.read("t", KEY) == {"id": 1, "n": 0, "top": None, "name": None, "later": 1}


def test_a_change_is_seen_until_postgresql_has_refused_it(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("ALTER TABLE t ADD CHECK (n < 100)")
    pipeline.write("t", KEY, add={"n": 1000})
    assert n_of(pipeline) == 1000
    pipeline.write("t", KEY, set={"name": "kept"})
    drain(pipeline)
    assert pipeline.status().dead_letters == 1
    assert pipeline.read("t", KEY) == {"id": 1, "n": 0, "top": None, "name": "kept"}


def test_an_insert_is_read_when_it_is_committed_and_never_hidden_by_the_cache(pipeline: Pipeline) -> None:
    key = {"id": 77}
    assert n_of(pipeline, key) is None
    pipeline.insert("t", {"id": 77, "n": 5})
    assert n_of(pipeline, key) is None
    pipeline.write("t", key, add={"n": 1})
    assert n_of(pipeline, key) == 1  # as if there were no other
    drain(pipeline)
    assert n_of(pipeline, key) == 6
    pipeline.delete("t", key)
    pipeline.insert("t", {"id": 77, "n": 50})
    pipeline.write("t", key, add={"n": 1})
    pipeline.read("t", key)
    drain(pipeline)
    assert n_of(pipeline, key) == 51


def test_when_somebody_deletes_an_overlay_the_flush_puts_the_cache_right(scene: Scene, pipeline: Pipeline) -> None:
    pipeline.write("t", KEY, add={"n": 1})
    scene.redis.delete(scene.keys.overlay + ROW)
    n_of(pipeline)
    drain(pipeline)
    assert n_of(pipeline) == 1


# --- many at once


def test_one_of_many_readers_who_miss_a_row_asks_postgresql(scene: Scene, pipeline: Pipeline) -> None:
    readers = 12
    fetches: list[int] = []
    before = _scripts_run(scene)

    def probe(step: Step) -> None:
        if step is Step.FETCHED:
            fetches.append(1)
            eventually(lambda: _scripts_run(scene) >= before + readers, "the others do not look")

    pipeline.write("t", KEY, add={"n": 1})
    with Pipeline(scene.config(), probe) as shared:  # a probe that waits would stop an event loop
        rows: list[Any] = []
        threads = [threading.Thread(target=lambda: rows.append(n_of(shared))) for _ in range(readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rows == [1] * readers
    assert len(fetches) == 1


def _scripts_run(scene: Scene) -> int:
    stats = scene.redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})
    return int(stats["calls"])


def test_a_reader_that_dies_holds_nobody_up_for_long(scene: Scene, pipeline: Pipeline) -> None:
    assert in_child(scene.config(), die_at(Step.LOOKED), lambda child: child.read("t", KEY)) == KILLED
    assert scene.redis.hgetall(scene.keys.row + ROW)  # its ticket
    assert n_of(pipeline) == 0
    assert n_of(pipeline) == 0
    assert scene.cached(ROW) != {}
