"""Waiting in an event loop: the same code, by tasks, of which one looks for all."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from pipeline import AsyncPipeline, AsyncReceipt, Change, Outcome, Pipeline, StillPending
from pipeline.telemetry import Step
from tests.integration.scene import Scene, drain

T = TypeVar("T")

SOON = 0.05
LONG = 30.0


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    """What flushes."""
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word varchar(3))")
    return scene.pipeline()


def alone(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop in which no other task is left at the end."""

    async def live() -> T:
        result = await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    return asyncio.run(live())


def test_a_receipt_is_awaited_until_its_event_is_applied_or_dead(scene: Scene, pipeline: Pipeline) -> None:
    async def live() -> None:
        async with AsyncPipeline(scene.config()) as waiting:
            good = await waiting.write("t", {"id": 1}, add={"n": 1})
            bad = await waiting.write("t", {"id": 2}, set={"word": "too long"})
            assert isinstance(good, AsyncReceipt)
            assert await good.outcome() is Outcome.PENDING
            with pytest.raises(StillPending):
                await good.wait(SOON)
            with pytest.raises(StillPending):
                await waiting.barrier(timeout=SOON)
            _, outcome, both = await asyncio.gather(
                asyncio.to_thread(drain, pipeline), bad.wait(LONG), waiting.wait_all([good, bad], LONG)
            )
            assert outcome.reason == "value too long for type character varying(3)"
            assert both == [Outcome.APPLIED, Outcome.DEAD]
            await waiting.barrier(timeout=LONG)

    alone(live())


def test_a_receipt_of_one_twin_is_waited_for_by_the_other(scene: Scene, pipeline: Pipeline) -> None:
    blocking = pipeline.write("t", {"id": 1}, add={"n": 1})

    async def live() -> AsyncReceipt:
        async with AsyncPipeline(scene.config()) as waiting:
            awaited = await waiting.write("t", {"id": 2}, add={"n": 1})
            await asyncio.to_thread(drain, pipeline)
            assert await waiting.wait(blocking, LONG) is Outcome.APPLIED
            return awaited

    assert pipeline.wait(alone(live()), LONG) is Outcome.APPLIED


def test_a_thousand_tasks_cost_as_much_as_one_and_any_of_them_may_be_cancelled(
    scene: Scene, pipeline: Pipeline
) -> None:
    steps: Counter[Step] = Counter()
    looked = asyncio.Event()

    def note(step: Step) -> None:
        steps[step] += 1
        looked.set()

    async def live() -> None:
        async with AsyncPipeline(scene.config(), note) as waiting:
            receipts = await waiting.write_many([Change("t", {"id": n}, add={"n": 1}) for n in range(1000)])
            tasks = [asyncio.create_task(receipt.wait(LONG)) for receipt in receipts]
            for number in range(0, 600, 100):  # whoever looks is among the first, or the last
                looked.clear()
                await looked.wait()
                for task in (*tasks[number : number + 50], *tasks[-50 - number : 1000 - number]):
                    task.cancel()
                await asyncio.sleep(0)
            polled, asked = steps[Step.POLLED], steps[Step.ASKED]
            await asyncio.to_thread(drain, pipeline)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} == {Outcome, asyncio.CancelledError}
            assert set(ends[50:100]) == {Outcome.APPLIED}
            assert steps[Step.POLLED] - polled <= 100
            assert steps[Step.ASKED] - asked <= 10

    alone(live())
