"""Durability per write, on real servers that are killed, stopped and cut off while somebody waits."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
import pytest
import redis

from pipeline import Config, DurabilityNotReached, InvalidEvent, InvalidSetting, Pipeline, Receipt
from pipeline.driving import run
from tests.integration.conftest import MakePipeline, MakeValkey, both_types
from tests.integration.durable import NEVER_SECONDS, online, pages, refused, replica_of, view, views, waits, watched
from tests.integration.scene import Scene, drain

pytestmark = both_types


def test_a_durable_write_is_asked_for_on_the_connection_that_wrote_it(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="always")
    pipeline = pipeline_on(server, durability_timeout_seconds=0.05)
    view(pipeline)
    assert [name for _, name in watched(server, lambda: view(pipeline))] == ["EVALSHA"]
    disk = watched(server, lambda: view(pipeline, durability="disk"))
    assert [name for _, name in disk] == ["EVALSHA", "WAITAOF"]  # and CONFIG GET, which MONITOR does not show
    replica = watched(server, lambda: refused(DurabilityNotReached, lambda: view(pipeline, durability="replica")))
    assert [name for _, name in replica] == ["EVALSHA", "WAIT"]
    assert len({connection for connection, _ in (*disk, *replica)}) == 1


@pytest.mark.parametrize("policy", ["always", "everysec"])
def test_what_is_on_disk_is_there_after_redis_was_killed(
    policy: str, make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync=policy)
    pipeline = pipeline_on(server)
    view(pipeline, durability="disk")
    server.kill()
    server.start()
    assert pages(server) == [1]
    receipts = pipeline.write_many(views(1000), durability="disk")
    server.kill()
    server.start()
    assert len(receipts) == 1000
    assert pages(server) == [1, *range(1000)]


def test_with_everysec_the_answer_is_not_older_than_an_fsync(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    """Valkey 9.1 answers WAITAOF before the fsync. Two fsyncs have a second between them, so two answers have, too."""
    pipeline = pipeline_on(make_valkey(appendfsync="everysec"))
    view(pipeline, durability="disk")
    began = time.monotonic()
    view(pipeline, durability="disk")
    view(pipeline, durability="disk")
    assert time.monotonic() - began >= 1.0


def test_with_everysec_the_file_is_looked_at_twice_after_an_fsync_was_due(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    """The first look may be what makes Redis start the fsync, the second sees that it is over."""
    server = make_valkey(appendfsync="everysec")
    pipeline = pipeline_on(server)
    view(pipeline)
    seen = watched(server, lambda: view(pipeline, durability="disk"))
    names = [name for _, name in seen]
    assert names[:2] == ["EVALSHA", "WAITAOF"]
    assert names.count("INFO") >= 4  # who are you; the count of rewrites; two looks
    assert len({connection for connection, _ in seen}) == 1


def test_a_known_event_is_a_write_of_its_connection_too(make_valkey: MakeValkey, pipeline_on: MakePipeline) -> None:
    """WAIT and WAITAOF would answer at once on a connection that wrote nothing."""
    server = make_valkey()
    view(pipeline_on(server), event_id="order:42")
    repeating = pipeline_on(server)
    with redis.Redis.from_url(server.url) as client:
        before = client.info("replication")["master_repl_offset"]
        assert view(repeating, event_id="order:42").duplicate
        assert client.info("replication")["master_repl_offset"] > before


def test_an_event_survives_the_loss_of_the_primary_if_a_replica_had_it(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    primary = make_valkey(repl_diskless_sync_delay=0)
    replica = replica_of(primary, make_valkey)
    pipeline = pipeline_on(primary)
    for page in range(20):
        view(pipeline, page, durability="replica")
    pipeline.write_many(views(30), durability="replica")
    primary.kill()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("NO", "ONE")
    assert pages(replica) == [*range(20), *range(30)]


def test_without_its_replica_an_event_is_accepted_and_applied_and_the_error_says_so(
    make_valkey: MakeValkey, migrated_url: str, pipeline_type: type[Pipeline]
) -> None:
    primary = make_valkey(repl_diskless_sync_delay=0)
    replica = replica_of(primary, make_valkey)
    with closing(Scene(primary.url, migrated_url, pipeline_type)) as scene:
        scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views int NOT NULL)")
        patient = scene.pipeline(durability_timeout_seconds=20)
        assert view(patient, durability="replica", event_id="first").duplicate is False
        replica.stop()
        hasty = scene.pipeline(durability_timeout_seconds=0.2)
        with pytest.raises(DurabilityNotReached, match=r"'replica' \(no replica had it within 0\.2 s") as caught:
            view(hasty, durability="replica", event_id="second")
        error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
        assert (error.wanted, error.reached) == ("replica", "memory")
        assert error.receipts == [Receipt("second", 0, 2, duplicate=False)]
        assert drain(hasty).events == 2
        assert scene.sql("SELECT views FROM page_views") == [(2,)]
        with pytest.raises(DurabilityNotReached):  # repeated: the same event, still only here
            view(hasty, durability="replica", event_id="second")
        replica.start()
        online(primary)
        assert view(patient, durability="replica", event_id="second") == Receipt("second", 0, 2, duplicate=True)
        assert drain(patient).events == 0
        assert scene.sql("SELECT views FROM page_views") == [(2,)]


def test_without_an_append_only_file_disk_is_never_reached(make_valkey: MakeValkey, pipeline_on: MakePipeline) -> None:
    server = make_valkey(appendonly="no")
    pipeline = pipeline_on(server, durability_timeout_seconds=NEVER_SECONDS)
    with pytest.raises(DurabilityNotReached, match=r"Redis refused WAITAOF.* appendonly is disabled") as caught:
        view(pipeline, durability="disk")
    assert caught.value.receipts[0] is not None
    assert pages(server) == [1]


def test_a_server_without_waitaof_is_told_apart_from_one_without_luck(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(rename_command=("WAITAOF", ""))  # as Redis before 7.2
    with pytest.raises(DurabilityNotReached, match=r"takes Redis 7\.2 or Valkey.*unknown command"):
        view(pipeline_on(server), durability="disk")
    assert pages(server) == [1]


def test_where_config_is_forbidden_the_fsync_is_waited_for_all_the_same(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    pipeline = pipeline_on(make_valkey(appendfsync="everysec", rename_command=("CONFIG", "")))
    view(pipeline, durability="disk")
    began = time.monotonic()
    view(pipeline, durability="disk")
    view(pipeline, durability="disk")
    assert time.monotonic() - began >= 1.0


def test_a_connection_that_breaks_while_it_waits_leaves_an_accepted_event_that_can_be_repeated(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendfsync="no")
    pipeline = pipeline_on(server, durability_timeout_seconds=NEVER_SECONDS)
    view(pipeline, 0)  # so that Redis has the script, and who waits has written
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(view, pipeline, durability="disk", event_id="order:42")
        waits(server)
        server.kill()
        with pytest.raises(DurabilityNotReached, match="the connection broke before Redis answered") as caught:
            waiting.result()
    assert caught.value.receipts == [Receipt("order:42", 0, 2, duplicate=False)]
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
    assert view(pipeline, durability="disk", event_id="order:42").seq == 2
    assert pages(server) == [0, 1]


def test_the_setting_is_what_a_write_waits_for_that_does_not_say(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey(appendonly="no")
    pipeline = pipeline_on(server, durability="disk")
    accepted: list[Any] = []
    for write in (
        lambda: view(pipeline),
        lambda: pipeline.delete("page_views", {"page_id": 1}),
        lambda: pipeline.insert("log", {"line": "x"}),
        lambda: pipeline.write_many(views(1)),
        lambda: pipeline.write_group(views(2), shard_by="a"),
    ):
        with pytest.raises(DurabilityNotReached) as caught:
            write()
        accepted += caught.value.receipts
    assert [receipt.seq for receipt in accepted] == [1, 2, 3, 4, 5]
    for write in (
        lambda: view(pipeline, durability="memory"),
        lambda: pipeline.delete("page_views", {"page_id": 1}, durability="memory"),
        lambda: pipeline.insert("log", {"line": "x"}, durability="memory"),
        lambda: pipeline.write_many(views(1), durability="memory"),
        lambda: pipeline.write_group(views(2), shard_by="a", durability="memory"),
    ):
        write()
    change = msgspec.to_builtins({"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}})
    run(pipeline.ingress.accept("task-1", change, str))  # nobody waits for its answer


def test_an_unknown_durability_is_refused_before_anything_is_written(
    make_valkey: MakeValkey, pipeline_on: MakePipeline
) -> None:
    server = make_valkey()
    pipeline = pipeline_on(server)
    with pytest.raises(InvalidEvent, match="durability must be one of disk, memory, replica, not 'paper'"):
        view(pipeline, durability="paper")
    with pytest.raises(InvalidEvent, match="durability must be"):
        pipeline.write_many(views(1), durability="paper")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="PIPELINE_DURABILITY"):
        Config.from_mapping({"PIPELINE_DURABILITY": "paper"})
    assert Config.from_mapping({"PIPELINE_DURABILITY": "disk", "PIPELINE_DURABILITY_TIMEOUT": "2"}) == Config(
        durability="disk", durability_timeout_seconds=2
    )
    assert pages(server) == []
