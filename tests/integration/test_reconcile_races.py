"""What happens to a row between the looks at it never makes it drifted."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.driving import blocking_sleep, each
from pipeline.reading import Found, Glimpse, Place, Question, RowSurvey
from pipeline.reconcile import Reconciled, Reconciler
from pipeline.telemetry import Step
from tests.faults.mortal import KILLED, die_at, in_child
from tests.integration.scene import Scene, drain

KEY = {"id": 1}


class Interposed:
    """PostgreSQL, with something that happens before it answers and something that happens after."""

    def __init__(self, pipeline: Pipeline, before: Callable[[], object], after: Callable[[], object]) -> None:
        self._rows = pipeline._parts.rows
        self._before = before
        self._after = after
        self.asked = 0

    async def read(self, questions: Sequence[Question]) -> list[Found]:
        self.asked += 1
        self._before()
        found = await self._rows.read(questions)
        self._after()
        return found


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)")
    scene.sql("INSERT INTO t VALUES (1, 5)")
    pipeline = scene.pipeline()
    pipeline.read("t", KEY)
    return pipeline


def reconciled(
    pipeline: Pipeline, store: Interposed, survey: RowSurvey | None = None, *, fix: bool = False
) -> Reconciled:
    survey = survey or pipeline._reconciler._survey
    reconciler = Reconciler(survey, store, time.monotonic, blocking_sleep, random.random)
    (found,) = [part for part in each(reconciler.reconcile(fix=fix)) if part.checked or part.skipped]
    return found


def in_turn(*acts: Callable[[], object]) -> Callable[[], None]:
    def act() -> None:
        for one in acts:
            one()

    return act


def acts(scene: Scene, pipeline: Pipeline) -> dict[str, Callable[[], Any]]:
    def die() -> None:
        assert in_child(scene.config(), die_at(Step.COMMITTED), lambda child: child.flush_shard(0)) == KILLED

    def acknowledge() -> None:
        scene.redis.delete(scene.keys.lease)
        drain(pipeline)

    return {
        "add": lambda: pipeline.write("t", KEY, add={"n": 1}),
        "take": lambda: pipeline.write("t", KEY, add={"n": -1}),
        "flush": lambda: drain(pipeline),
        "die": die,
        "acknowledge": acknowledge,
    }


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["add", "flush"], ["take", "flush"]),
        (["add", "flush"], ["take"]),
        (["add", "flush"], []),
        (["add", "take", "flush"], []),
        (["add", "die"], ["take", "acknowledge"]),
        (["add"], ["take"]),
        (["add"], ["flush"]),
        ([], ["add", "take", "flush"]),
    ],
)
@pytest.mark.parametrize("pending", [False, True])
def test_a_row_that_is_written_between_the_looks_is_not_drifted(
    scene: Scene, pipeline: Pipeline, before: list[str], after: list[str], *, pending: bool
) -> None:
    known = acts(scene, pipeline)
    if pending:
        pipeline.write("t", KEY, add={"n": 10})
    store = Interposed(
        pipeline,
        in_turn(*(known[name] for name in before)),
        in_turn(*(known[name] for name in after)),
    )
    found = reconciled(pipeline, store, fix=True)
    assert (found.checked, found.drifted, found.fixed) == (1, 0, 0)
    assert store.asked >= 1
    drain(pipeline)
    assert pipeline.read("t", KEY) == {"id": 1, "n": scene.sql("SELECT n FROM t")[0][0]}


class Prepared:
    """Redis, with something that happens before the first of every two looks at a row."""

    def __init__(self, pipeline: Pipeline, prepare: Callable[[], object]) -> None:
        survey = pipeline._reconciler._survey
        self.walk, self.drop, self._glimpse = survey.walk, survey.drop, survey.glimpse
        self._prepare = prepare
        self._looks = 0

    async def glimpse(self, places: Sequence[Place]) -> list[Glimpse]:
        self._looks += 1
        if self._looks % 2 == 0:  # the very first look is followed by no second one
            self._prepare()
        return await self._glimpse(places)


def test_a_flusher_that_has_committed_and_not_acknowledged_makes_no_drift(scene: Scene, pipeline: Pipeline) -> None:
    known = acts(scene, pipeline)
    before, after = in_turn(known["add"], known["die"]), known["take"]
    store = Interposed(pipeline, before, after)  # the cached row is as it was, and nothing is acknowledged
    found = reconciled(pipeline, store, Prepared(pipeline, known["acknowledge"]))
    assert (found.checked, found.drifted) == (1, 0)
    assert store.asked > 3


def test_a_drifted_row_that_changes_before_it_is_dropped_is_looked_at_again(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("UPDATE t SET n = 100")
    writes = iter(range(3))

    def write() -> None:
        if next(writes, None) is not None:
            pipeline.write("t", KEY, add={"n": 1})

    found = reconciled(pipeline, Interposed(pipeline, int, write), fix=True)
    assert (found.drifted, found.fixed) == (1, 1)
    assert pipeline.read("t", KEY) == {"id": 1, "n": 103}


def test_a_row_that_vanishes_meanwhile_is_skipped(scene: Scene, pipeline: Pipeline) -> None:
    scene.sql("UPDATE t SET n = 100")
    pipeline.write("t", KEY, add={"n": 1})
    found = reconciled(pipeline, Interposed(pipeline, int, lambda: scene.redis.delete(f"{scene.keys.row}t:id=1")))
    assert (found.checked, found.skipped, found.drifted) == (0, 1, 0)
