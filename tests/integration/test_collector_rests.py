"""Large batches are flushed without Python's collector of cycles looking at them again and again."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline import Change
from tests.integration.scene import Scene

EVENTS = 3000
BESIDE = 3
"""Times that it may run before and after a batch."""


@contextmanager
def collections() -> Iterator[Callable[[], int]]:
    """How often the collector has run so far."""
    runs: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)

    gc.callbacks.append(note)
    try:
        yield lambda: runs.count("start")
    finally:
        gc.callbacks.remove(note)


def test_a_batch_is_flushed_without_the_collector(scene: Scene) -> None:
    scene.sql("CREATE TABLE carts (id int PRIMARY KEY, tags text[])")
    pipeline = scene.pipeline()
    pipeline.write_many(Change("carts", {"id": number}, set={"tags": ["a", "b"]}) for number in range(EVENTS))
    with collections() as so_far:
        pipeline.flush_shard(0)
        assert so_far() <= BESIDE
    assert gc.isenabled()
    assert scene.sql("SELECT count(*) FROM carts") == [(EVENTS,)]
