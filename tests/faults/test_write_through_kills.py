"""Whatever step of a write_through a process is killed at: the change is there or not, and every read is right."""

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pipeline import Pipeline
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, drain, eventually

KEY = {"id": 1}
ROW = "t:id=1"
STEPS = (Step.SETTLED, Step.TAKEN, Step.DROPPED, Step.CHANGED, Step.PASSED)
PENDING = 1
CHANGED = 10


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    scene.sql("INSERT INTO t VALUES (1)")
    pipeline = scene.pipeline()
    pipeline.write("t", KEY, add={"n": PENDING})
    assert n_of(pipeline) == PENDING
    assert scene.cached(ROW)
    return pipeline


def n_of(pipeline: Pipeline) -> Any:
    row = pipeline.read("t", KEY)
    return None if row is None else row["n"]


def pass_through(pipeline: Pipeline) -> None:
    pipeline.write_through("t", KEY, add={"n": CHANGED})


def commit_later(url: str, commit: Callable[[psycopg.Connection[Any]], object]) -> Callable[[Pipeline], None]:
    def work(pipeline: Pipeline) -> None:
        with psycopg.connect(url) as connection:
            pipeline.write_through("t", KEY, add={"n": CHANGED}, connection=connection)
            commit(connection)

    return work


def commit_and_die(connection: psycopg.Connection[Any]) -> None:
    connection.commit()
    os.kill(os.getpid(), 9)


def die(_connection: psycopg.Connection[Any]) -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("evicted", [False, True])
def test_a_kill_at_any_step_leaves_every_read_exact(
    scene: Scene, pipeline: Pipeline, step: Step, *, evicted: bool
) -> None:
    assert in_child(scene.config(), die_at(step), pass_through) == KILLED
    if evicted:
        scene.redis.delete(scene.keys.row + ROW)
    expected = PENDING + CHANGED * (step is Step.PASSED)
    check(scene, pipeline, expected)


@pytest.mark.parametrize(("end", "committed"), [(die, False), (commit_and_die, True)])
def test_a_kill_before_or_after_the_callers_own_commit_leaves_every_read_exact(
    scene: Scene, pipeline: Pipeline, end: Callable[[psycopg.Connection[Any]], object], *, committed: bool
) -> None:
    work = commit_later(scene.database_url, end)
    assert in_child(scene.config(), lambda _: None, work) == KILLED
    check(scene, pipeline, PENDING + CHANGED * committed)


def check(scene: Scene, pipeline: Pipeline, expected: int) -> None:
    for _ in range(3):
        assert n_of(pipeline) == expected
    eventually(lambda: n_of(pipeline) == expected and scene.cached(ROW), "the row is not cached again")
    pass_through(pipeline)
    pipeline.write("t", KEY, add={"n": 100})
    assert n_of(pipeline) == expected + CHANGED + 100
    drain(pipeline)
    assert scene.sql("SELECT n FROM t") == [(expected + CHANGED + 100,)]
    assert n_of(pipeline) == expected + CHANGED + 100


@pytest.mark.parametrize("step", [Step.CLAIMED, Step.COMMITTING, Step.COMMITTED])
def test_a_flusher_that_dies_over_what_is_pending_is_waited_for(scene: Scene, pipeline: Pipeline, step: Step) -> None:
    assert in_child(scene.config(lease_seconds=0.05), die_at(step), drain) == KILLED
    pass_through(pipeline)
    assert scene.sql("SELECT n FROM t") == [(PENDING + CHANGED,)]
    assert n_of(pipeline) == PENDING + CHANGED
