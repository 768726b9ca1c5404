"""``write_many`` encodes a chunk while Redis works on the one before; and the script completes what was encoded."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Change, InvalidEvent, PipelineFull, Receipt
from pipeline.core.change import Event, seal
from pipeline.core.codec import Envelope, decode, kwargs_json
from pipeline.errors import PipelineError
from pipeline.writer import CHUNK
from tests.integration.scene import Scene, eventually
from tests.unit.strategies import changes, event_ids, texts

TASK = "pipeline.apply_event"
to_json = msgspec.json.encode
GOOD = [Change("page_views", key={"page_id": page}, add={"views": 1}) for page in range(2 * CHUNK)]
BAD = Change("page_views", key={"page_id": None})


def accepted(error: PipelineError) -> list[bool]:
    return [isinstance(receipt, Receipt) for receipt in error.receipts]


def queued(scene: Scene) -> list[bytes]:
    """The messages in shard 0, oldest first."""
    messages: list[bytes] = scene.redis.lrange(scene.keys.events, 0, -1)
    return messages[::-1]


def test_a_chunk_that_is_on_its_way_is_known_when_the_next_one_cannot_be_encoded(redis_scene: Scene) -> None:
    with pytest.raises(InvalidEvent, match="page_id") as caught:
        redis_scene.pipeline().write_many([*GOOD[: CHUNK + 2], BAD])
    assert accepted(caught.value) == [True] * CHUNK + [False] * 3
    assert caught.value.position == CHUNK + 2
    assert str(caught.value).startswith(f"change {CHUNK + 2}: page_views.page_id: ")
    assert len(queued(redis_scene)) == CHUNK


def test_a_chunk_that_is_on_its_way_is_accepted_when_the_callers_iterator_raises(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()

    def source() -> Iterator[Change]:
        yield from GOOD[: CHUNK + 2]
        raise LookupError("of the caller")

    with pytest.raises(LookupError, match="of the caller") as caught:
        pipeline.write_many(source())
    assert caught.value.__notes__ == [f"write_many had accepted {CHUNK:,} of the changes that it was given before this"]
    assert len(queued(redis_scene)) == CHUNK
    assert pipeline.write("page_views", key={"page_id": 1}).seq == CHUNK + 1  # over a connection that owes nothing


def test_the_receipts_are_of_this_call_also_when_the_callers_iterator_raises_an_error_of_ours(
    redis_scene: Scene,
) -> None:
    pipeline = redis_scene.pipeline()

    def source() -> Iterator[Change]:
        yield from GOOD[:CHUNK]
        pipeline.write_many([BAD] * 3)

    with pytest.raises(InvalidEvent) as caught:
        pipeline.write_many(source())
    assert accepted(caught.value) == [True] * CHUNK
    assert caught.value.position == 0  # as the inner call said


def test_a_refused_chunk_is_told_before_what_is_wrong_with_the_next_one(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline(max_pending=CHUNK)
    pipeline.write("page_views", key={"page_id": 1})
    with pytest.raises(PipelineFull) as caught:
        pipeline.write_many([*GOOD[:CHUNK], BAD])
    assert accepted(caught.value) == [False] * (CHUNK + 1)
    assert len(queued(redis_scene)) == 1


def test_the_next_chunk_is_taken_while_the_one_before_is_on_its_way(redis_scene: Scene) -> None:
    pipeline = redis_scene.pipeline()
    pipeline.insert("log", {"x": 1})  # so that Redis knows the script

    def source() -> Iterator[Change]:
        yield from GOOD[:CHUNK]
        eventually(lambda: len(queued(redis_scene)) == 1 + CHUNK, "the first chunk is not on its way")
        yield from GOOD[CHUNK:]

    receipts = pipeline.write_many(source())
    assert [receipt.seq for receipt in receipts] == list(range(2, 2 * CHUNK + 2))
    pages = [event.changes[0].key["page_id"] for event in map(decoded, queued(redis_scene)[1:])]
    assert pages == [change.key["page_id"] for change in GOOD]


def decoded(message: bytes) -> Event:
    event = decode(message, TASK)
    assert isinstance(event, Event)
    return event


# --- the script puts together what the codec describes ----------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(changes, min_size=1, max_size=4), shard_by=st.none() | texts, event_id=event_ids)
def test_a_message_in_the_queue_is_the_envelopes_to_the_byte(
    redis_scene: Scene, batch: list[Change], shard_by: str | None, event_id: str
) -> None:
    redis_scene.redis.flushdb()
    with redis_scene.pipeline() as pipeline:
        pipeline.write_group(batch, shard_by=shard_by, event_id=event_id)
    wires = [seal(change)[0] for change in batch]
    message = Envelope(TASK, redis_scene.keys.events).encode(to_json(event_id), kwargs_json(wires, shard_by))
    (queued_message,) = queued(redis_scene)
    assert queued_message.startswith(message + b"[1,")
    overlays = [
        entry for key in redis_scene.redis.keys("pipeline.overlay*") for entry in redis_scene.redis.lrange(key, 0, -1)
    ]
    keyed = [wire for wire in wires if "key" in wire]
    assert sorted(overlays) == sorted(b"[1," + to_json(event_id) + b"," + to_json(wire) + b"]" for wire in keyed)
