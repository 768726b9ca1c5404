"""Whoever takes the ingress queue in bulk may be killed at any step: nothing is lost, doubled, or out of order."""

import itertools
import json

import pytest

from pipeline import Pipeline
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, dead, drain, eventually
from tests.unit.broken_messages import raw, stock

SCHEMA = "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, page int NOT NULL, what int NOT NULL)"
EVENTS = 60
PAGES = 7
POISON = (17, 41)
"""In their places lies nonsense without an id."""

LATER = (5, 50)
"""In their places lie events that are due in many years."""

STEPS = (
    (Step.ARRIVED, 1),
    (Step.ARRIVED, 2),
    (Step.REFUSED, 1),
    (Step.ADMITTED, 1),
    (Step.ADMITTED, 2),
    (Step.PLACED, 1),
    (Step.PLACED, 2),
)
PAIRED = [(step, times) for step, times in STEPS if times == 1]
SETTINGS = {"shards": 2, "ingress_batch": 25, "lease_seconds": 0.02, "flush_interval_seconds": 60, "max_pending": 40}
"""Several batches; whoever is killed is soon forgotten; and there is not room for all."""


def take(pipeline: Pipeline) -> None:
    pipeline.take_ingress(read_as_celery)


def arrive(scene: Scene) -> None:
    scene.sql(SCHEMA)
    for n in range(EVENTS):
        change = {"table": "log", "insert": {"page": n % PAGES, "what": n}, "shard_by": f"page-{n % PAGES}"}
        headers = {"eta": "2100-01-01T00:00:00+00:00"} if n in LATER else {}
        scene.redis.lpush("pipeline", b"nonsense" if n in POISON else raw(stock(f"event-{n}", change, **headers)))


def killed_at(scene: Scene, step: tuple[Step, int]) -> int:
    code = in_child(scene.config(**SETTINGS), die_at(*step), take)
    eventually(lambda: not scene.redis.exists("pipeline.ingress.lease"), "the end of its lease")
    return code


def check(scene: Scene) -> None:
    """Take and flush until nothing is left; then compare with what was sent."""
    pipeline = scene.pipeline(**SETTINGS)
    drain(pipeline)
    while scene.redis.exists("pipeline", "pipeline.ingress.batch", "pipeline.waiting.{0}", "pipeline.waiting.{1}"):
        take(pipeline)
        drain(pipeline)
    good = [n for n in range(EVENTS) if n not in (*POISON, *LATER)]
    for page in range(PAGES):
        applied = scene.sql("SELECT what FROM log WHERE page = %s ORDER BY id", page)
        assert applied == [(n,) for n in good if n % PAGES == page]
    assert [letter.message for letter in dead(pipeline)] == [b"nonsense"] * len(POISON)
    left = scene.redis.lrange("pipeline.others", 0, -1)[::-1]
    assert [json.loads(message)["headers"]["id"] for message in left] == [f"event-{n}" for n in LATER]
    assert scene.redis.keys("pipeline.ingress.*") == []


@pytest.mark.parametrize("step", STEPS)
def test_the_taking_of_the_queue_that_is_killed_at_a_step_neither_loses_nor_doubles(
    scene: Scene, step: tuple[Step, int]
) -> None:
    arrive(scene)
    assert killed_at(scene, step) == KILLED
    check(scene)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(PAIRED, repeat=2)))
def test_the_taking_of_the_queue_that_is_killed_twice_neither_loses_nor_doubles(
    scene: Scene, first: tuple[Step, int], second: tuple[Step, int]
) -> None:
    arrive(scene)
    assert killed_at(scene, first) == KILLED
    assert killed_at(scene, second) in {KILLED, 0}
    check(scene)


@pytest.mark.parametrize("step", STEPS)
def test_who_is_killed_with_what_has_waited_for_room_neither_loses_nor_doubles(
    scene: Scene, step: tuple[Step, int]
) -> None:
    arrive(scene)
    pipeline = scene.pipeline(**SETTINGS)
    take(pipeline)
    assert scene.redis.smembers("pipeline.ingress.full")
    drain(pipeline)
    assert killed_at(scene, step) in {KILLED, 0}
    check(scene)
