"""What Celery clients have sent and nobody has taken can be seen, and doctor says when it does not move."""

import json

import pytest

from pipeline import Pipeline
from pipeline.arrivals import Depth
from pipeline.buffer.inspection import inspect_broker
from pipeline.buffer.keys import Keys
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.core.health import Finding, Level
from tests.integration.command_line import CommandLine
from tests.integration.scene import Scene
from tests.unit.broken_messages import raw, stock

KEYS = Keys("pipeline", 1)


def event(number: int) -> bytes:
    return raw(stock(f"event-{number}", {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}}))


def send(scene: Scene, count: int) -> None:
    scene.redis.lpush("pipeline", *(event(n) for n in range(count)))


@pytest.fixture
def lying(scene: Scene) -> Scene:
    """Six messages are queued, one has a priority, one is left to Celery, three wait for room."""
    send(scene, 5)
    scene.redis.lpush("pipeline", raw(stock(task="shop.greet")))
    pipeline = scene.pipeline(max_pending=2)
    pipeline.take_ingress(read_as_celery)
    scene.redis.lpush("pipeline", *(event(n) for n in range(10, 16)))
    scene.redis.lpush(KEYS.ingress[2], event(20))
    return scene


def test_status_shows_where_messages_of_clients_lie(lying: Scene) -> None:
    ingress = lying.pipeline(max_pending=2).status().ingress
    assert ingress == Depth(queued=7, taken=0, waiting=3, for_celery=1)


def test_the_command_shows_them_in_a_row_of_their_own(lying: Scene) -> None:
    cli = CommandLine(lying.redis_url, lying.database_url, PIPELINE_SHARDS="1")
    assert json.loads(cli("status", "--json").out)["ingress"] == {
        "queued": 7, "taken": 0, "waiting": 3, "for_celery": 1,
    }  # fmt: skip
    row = cli("status").rows[-1]
    assert (row["shard"], row["pending"], row["error"]) == (
        "ingress", "11", "3 wait for room in their shards, 1 are left to Celery",
    )  # fmt: skip


def test_where_nothing_lies_there_is_no_row(scene: Scene) -> None:
    cli = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="1")
    assert [row["shard"] for row in cli("status").rows] == ["0", "all"]


def test_flush_says_of_what_it_does_not_take(scene: Scene) -> None:
    send(scene, 3)
    ended = CommandLine(scene.redis_url, scene.database_url, PIPELINE_SHARDS="1")("flush")
    assert ended.code == 0
    assert ended.message == (
        "pipeline: 3 events of Celery clients are in no shard yet and were not flushed; beat and a worker take them"
    )
    assert scene.pipeline().status().ingress == Depth(queued=3, taken=0, waiting=0, for_celery=0)


def test_with_another_broker_nobody_knows(scene: Scene) -> None:
    assert scene.pipeline(broker_url="amqp://guest@nowhere.invalid//").status().ingress is None


def ingress_findings(pipeline: Pipeline) -> list[Finding]:
    return [finding for finding in pipeline.doctor() if finding.check == "ingress"]


def test_doctor_says_that_nobody_takes_what_clients_send(scene: Scene) -> None:
    send(scene, 3)
    pipeline = scene.pipeline(flush_interval_seconds=0.01)
    (finding,) = ingress_findings(pipeline)
    assert (finding.level, finding.message) == (
        Level.PROBLEM,
        "3 events of Celery clients wait; in 0.02 s nobody took one",
    )
    assert "beat" in (finding.advice or "")
    pipeline.take_ingress(read_as_celery)
    assert ingress_findings(pipeline) == []


def test_what_a_killed_worker_has_taken_does_not_move_either(scene: Scene) -> None:
    scene.redis.lpush(KEYS.ingress_batch, event(1))
    assert len(ingress_findings(scene.pipeline(flush_interval_seconds=0.01))) == 1


def test_a_queue_that_moves_while_doctor_looks_is_no_problem(scene: Scene) -> None:
    send(scene, 3)
    config = scene.config()
    assert inspect_broker(config, lambda _: None).unmoved_seconds == 2 * config.flush_interval_seconds
    assert inspect_broker(config, lambda _: scene.redis.rpop("pipeline")).unmoved_seconds is None
    assert inspect_broker(config, lambda _: scene.redis.set(KEYS.ingress_lease, "somebody")).unmoved_seconds is None


def test_where_beat_ticks_seldom_nobody_waits_for_a_doctor(scene: Scene) -> None:
    send(scene, 3)
    slept: list[float] = []
    assert inspect_broker(scene.config(flush_interval_seconds=60), slept.append).unmoved_seconds is None
    assert slept == []
