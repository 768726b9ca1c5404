"""A write: what it asks of Redis, what it leaves there, and what it refuses."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import msgspec
import pytest
import redis

from pipeline import BufferUnavailable, Change, InvalidEvent, Pipeline, PipelineFull, Receipt, TopologyMismatch
from pipeline.contrib.embedded import Valkey
from pipeline.core.change import shard_of
from pipeline.core.values import identity
from pipeline.writer import CHUNK, CHUNK_CHARACTERS
from tests.integration.scene import Scene, eventually

VIEWS = "page_views:page_id=7"


def view(pipeline: Pipeline, page: int = 7) -> Receipt:
    return pipeline.write("page_views", key={"page_id": page}, add={"views": 1})


@contextmanager
def monitored(scene: Scene) -> Iterator[list[str]]:
    """The commands that clients (not scripts) send to Redis meanwhile."""
    commands: list[str] = []
    scene.redis.ping()  # connected before the watch begins
    with redis.Redis.from_url(scene.redis_url) as watcher, watcher.monitor() as monitor:
        yield commands
        scene.redis.echo("the end")
        while (entry := monitor.next_command())["command"] != "ECHO the end":
            if entry["client_type"] != "lua":
                commands.append(entry["command"].split()[0].upper())


# --- one round trip ---------------------------------------------------------------------------------------------------


def test_a_write_is_exactly_one_command(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    view(pipeline)
    with monitored(redis_scene) as commands:
        for _ in range(3):
            view(pipeline)
        pipeline.delete("carts", key={"user_id": 3, "sku": "A1"}, event_id="once")
        pipeline.insert("audit_log", {"actor": "u1"})
        pipeline.write_group([Change("a", key={"id": 1}), Change("b", key={"id": 2}), Change("c", insert={"x": 1})])
    assert commands == ["EVALSHA"] * 6


def test_write_many_is_one_command_for_each_chunk(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    view(pipeline)
    with monitored(redis_scene) as commands:
        receipts = pipeline.write_many(Change("page_views", key={"page_id": i}) for i in range(2 * CHUNK + 1))
    assert commands == ["EVALSHA"] * 3
    assert [receipt.seq for receipt in receipts] == list(range(2, 2 * CHUNK + 3))


def test_a_call_takes_few_large_events_so_that_redis_is_not_held_for_long(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_event_bytes=2 * CHUNK_CHARACTERS)
    view(pipeline)
    sizes = [CHUNK_CHARACTERS // 3] * 4 + [CHUNK_CHARACTERS] * 2
    with monitored(redis_scene) as commands:
        receipts = pipeline.write_many(Change("t", key={"id": i}, set={"x": "y" * n}) for i, n in enumerate(sizes))
    assert commands == ["EVALSHA"] * 4  # two, two, one, one
    assert [receipt.seq for receipt in receipts] == [2, 3, 4, 5, 6, 7]


def test_write_many_keeps_the_order_of_each_shard(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(shards=3)
    changes = [Change("page_views", key={"page_id": i}) for i in range(1000)]
    receipts = pipeline.write_many(changes)
    lanes: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for change, receipt in zip(changes, receipts, strict=True):
        assert receipt.shard == shard_of([("page_views", identity(change.key))], None, "", 3)
        lanes[receipt.shard].append(receipt.seq)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in lanes.values())


def test_after_redis_lost_its_scripts_writes_and_flushes_go_on(scene: Scene) -> None:
    scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views int)")
    pipeline = scene.pipeline()
    view(pipeline)
    scene.redis.script_flush()
    view(pipeline)
    scene.redis.script_flush()
    pipeline.write_many([Change("page_views", key={"page_id": 7}, add={"views": 1})] * 3)
    scene.redis.script_flush()
    assert pipeline.flush_shard(0).events == 5
    assert scene.sql("SELECT views FROM page_views") == [(5,)]


# --- what it leaves in Redis ------------------------------------------------------------------------------------------


def test_the_queue_is_a_celery_queue(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    first, second = view(pipeline, 1), view(pipeline, 2)
    newest, oldest = map(msgspec.json.decode, redis_scene.redis.lrange(redis_scene.keys.events, 0, -1))
    assert (oldest["headers"]["id"], newest["headers"]["id"]) == (first.event_id, second.event_id)
    assert oldest["headers"]["task"] == "pipeline.apply_event"
    assert oldest["headers"]["pipeline"][0] == 1
    assert oldest["properties"]["delivery_info"] == {"exchange": "", "routing_key": "pipeline.events.{0}"}
    assert oldest["properties"]["delivery_tag"] == first.event_id
    assert (oldest["content-type"], oldest["content-encoding"]) == ("application/json", "utf-8")
    arguments = {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}}
    assert msgspec.json.decode(oldest["body"]) == [[], arguments, {}]


def test_the_message_carries_the_time_of_redis(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    seconds, microseconds = redis_scene.redis.time()
    view(pipeline)
    accepted_ms = msgspec.json.decode(redis_scene.queued()[0])["headers"]["pipeline"][1]
    now_seconds, now_microseconds = redis_scene.redis.time()
    assert seconds * 1000 + microseconds // 1000 <= accepted_ms <= now_seconds * 1000 + now_microseconds // 1000


def test_the_overlay_of_a_row_lists_its_pending_changes_in_order(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    first = view(pipeline)
    view(pipeline, page=8)
    third = pipeline.delete("page_views", key={"page_id": 7}, event_id='say "hi" \\ é')
    assert redis_scene.overlay(VIEWS) == [
        [1, first.event_id, {"table": "page_views", "key": {"page_id": 7}, "add": {"views": 1}}],
        [3, third.event_id, {"table": "page_views", "key": {"page_id": 7}, "delete": True}],
    ]


def test_a_group_stands_in_the_overlay_of_every_row_under_one_number(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    changes = [Change("a", key={"id": 1}, set={"x": 1}), Change("b", key={"id": 2}), Change("a", key={"id": 1})]
    receipt = pipeline.write_group(changes)
    assert [entry[:2] for entry in redis_scene.overlay("a:id=1")] == [[1, receipt.event_id], [1, receipt.event_id]]
    assert redis_scene.overlay("b:id=2") == [[1, receipt.event_id, {"table": "b", "key": {"id": 2}}]]


def test_an_insert_has_no_overlay(redis_scene: Scene) -> None:
    redis_scene.pipeline().insert("audit_log", {"actor": "u1"})
    assert redis_scene.redis.keys("pipeline.overlay*") == []
    assert len(redis_scene.queued()) == 1


def test_a_refused_write_leaves_nothing_in_redis(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_event_bytes=1000)
    with pytest.raises(InvalidEvent):
        pipeline.write("t", key={"id": None})
    with pytest.raises(InvalidEvent):
        pipeline.write("t", key={"id": 1}, set={"x": "y" * 1000})
    with pytest.raises(InvalidEvent) as caught:
        pipeline.write_many([Change("t", key={"id": 1}), Change("t", key={"id": 2}, add={"x": "1"})])
    assert caught.value.receipts == [None, None]
    assert redis_scene.redis.keys("*") == []


# --- once -------------------------------------------------------------------------------------------------------------


def test_the_same_event_id_twice_is_one_event(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    view(pipeline)
    first = pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id="order:42")
    again = pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id="order:42")
    assert first == Receipt("order:42", 0, 2)
    assert again == Receipt("order:42", 0, 2, duplicate=True)
    assert len(redis_scene.queued()) == len(redis_scene.overlay(VIEWS)) == 2


def test_an_event_id_is_remembered_after_its_flush_and_forgotten_after_its_window(scene: Scene) -> None:
    scene.sql("CREATE TABLE page_views (page_id int PRIMARY KEY, views int)")
    pipeline = scene.pipeline(dedupe_window_seconds=500)
    event = UUID(int=7)
    pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id=str(event))
    pipeline.flush_shard(0)
    assert pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id=str(event)).duplicate
    assert pipeline.flush_shard(0).events == 0
    assert scene.sql("SELECT views FROM page_views") == [(1,)]
    assert 0 < scene.redis.pttl(scene.keys.seen + str(event)) <= 500_000
    scene.redis.pexpire(scene.keys.seen + str(event), 0)
    assert not pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id=str(event)).duplicate


# --- full -------------------------------------------------------------------------------------------------------------


def test_a_full_shard_refuses_a_write_and_keeps_nothing_of_it(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=2)
    view(pipeline)
    view(pipeline)
    redis_scene.cache(VIEWS, {"page_id": 7, "views": 2})
    with pytest.raises(PipelineFull):
        view(pipeline)  # this asks for a flush
    before = {key: redis_scene.redis.dump(key) for key in redis_scene.redis.keys("*")}
    with pytest.raises(PipelineFull) as caught:
        pipeline.write("page_views", key={"page_id": 7}, add={"views": 1}, event_id="too much")
    assert (caught.value.shard, caught.value.pending, caught.value.limit, caught.value.accepted) == (0, 2, 2, 0)
    assert {key: redis_scene.redis.dump(key) for key in redis_scene.redis.keys("*")} == before


def test_a_frozen_batch_counts_as_pending(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=1)
    view(pipeline)
    redis_scene.redis.rename(redis_scene.keys.events, redis_scene.keys.batch)
    with pytest.raises(PipelineFull):
        view(pipeline)


def test_the_receipts_of_a_refused_write_many_say_exactly_what_was_accepted(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(shards=2, max_pending=2 * (CHUNK + 10))
    changes = [Change("page_views", key={"page_id": i}) for i in range(2000)]
    with pytest.raises(PipelineFull) as caught:
        pipeline.write_many(iter(changes))
    receipts = [receipt for receipt in caught.value.receipts if isinstance(receipt, Receipt)]
    lanes = Counter(receipt.shard for receipt in receipts)
    assert lanes == {0: CHUNK, 1: CHUNK}  # the second chunk of a lane does not fit as a whole
    assert caught.value.accepted == len(receipts)
    accepted = {
        (receipt.event_id, change.key["page_id"])
        for receipt, change in zip(caught.value.receipts, changes, strict=False)
        if isinstance(receipt, Receipt)
    }
    assert accepted == set(_in_the_queues(redis_scene))


def _in_the_queues(scene: Scene) -> Iterator[tuple[str, int]]:
    for queue in scene.redis.keys("pipeline.events*"):
        for message in map(msgspec.json.decode, scene.redis.lrange(queue, 0, -1)):
            yield message["headers"]["id"], msgspec.json.decode(message["body"])[1]["key"]["page_id"]


def test_a_full_shard_does_not_keep_the_others_from_accepting(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(shards=2, max_pending=20)
    changes = [Change("page_views", key={"page_id": i}) for i in range(20)]
    lanes = [shard_of([("page_views", identity(change.key))], None, "", 2) for change in changes]
    crowded = [change for change, lane in zip(changes, lanes, strict=True) if lane == 0][:8] * 2
    roomy = [change for change, lane in zip(changes, lanes, strict=True) if lane == 1][:5]
    with pytest.raises(PipelineFull) as caught:
        pipeline.write_many([*crowded, *roomy])
    # a chunk is never larger than what a shard may hold at all: ten, and then six that do not fit; and one more change
    # was taken already
    accepted = [isinstance(receipt, Receipt) for receipt in caught.value.receipts]
    assert accepted == [True] * 10 + [False] * 6 + [True] * 4 + [False]
    assert caught.value.accepted == 14


# --- who may write ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        view,
        lambda pipeline: pipeline.write_many([Change("t", key={"id": 1})]),
        lambda pipeline: pipeline.flush_shard(0),
        lambda pipeline: pipeline.shards_to_flush(),
    ],
    ids=["write", "write_many", "flush_shard", "shards_to_flush"],
)
def test_a_client_with_another_number_of_shards_is_refused(
    redis_scene: Scene, use: Callable[[Pipeline], object]
) -> None:
    view(redis_scene.pipeline(shards=4))
    keys = sorted(redis_scene.redis.keys("*"))
    stranger = redis_scene.pipeline(shards=8)
    for _ in range(2):
        with pytest.raises(TopologyMismatch) as caught:
            use(stranger)
        assert (caught.value.field, caught.value.ours, caught.value.theirs) == ("shards", "8", "4")
    assert sorted(redis_scene.redis.keys("*")) == keys


def test_two_namespaces_share_a_redis_without_meeting(redis_scene: Scene) -> None:
    view(redis_scene.pipeline(shards=4))
    view(redis_scene.pipeline(shards=8, namespace="other"))
    assert len(redis_scene.redis.keys("other.events*")) == len(redis_scene.redis.keys("pipeline.events*")) == 1


@pytest.mark.parametrize("columns", [7, "x", ["views"]])
@pytest.mark.parametrize("place", ["key", "set", "add", "max", "min"])
def test_columns_that_are_no_dict_are_refused_with_the_tables_name(
    redis_scene: Scene, place: str, columns: object
) -> None:
    with pytest.raises(InvalidEvent, match="t: columns come as a dict of column"):
        redis_scene.pipeline().write("t", **{"key": {"id": 1}, place: columns})  # type: ignore[arg-type]


def test_what_an_older_version_has_remembered_of_an_event_is_still_known(redis_scene: Scene) -> None:
    redis_scene.redis.set(redis_scene.keys.seen + "e", "7")
    receipt = redis_scene.pipeline().write("t", {"id": 1}, event_id="e")
    assert (receipt.seq, receipt.after, receipt.duplicate) == (7, 0, True)


# --- Redis away or full -----------------------------------------------------------------------------------------------


def test_a_write_without_redis_says_so(redis_scene: Scene, valkey: Valkey) -> None:
    pipeline = redis_scene.pipeline()
    view(pipeline)
    valkey.stop()
    with pytest.raises(BufferUnavailable):
        view(pipeline)
    with pytest.raises(BufferUnavailable) as caught:
        pipeline.write_many([Change("t", key={"id": 1})] * 3)
    assert caught.value.receipts == [None] * 3
    valkey.start()
    eventually(redis_scene.redis.ping, "Valkey is back")
    assert view(pipeline).seq == 2
    assert [entry[0] for entry in redis_scene.overlay(VIEWS)] == [1, 2]
