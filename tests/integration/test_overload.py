"""Producers that are faster than PostgreSQL: Redis stays bounded, and nothing is lost (``scripts/bench overload``)."""

from scripts.benchmark.overload import Load, Sample, memory_bound, overload

UNBOUNDED_BYTES = 500
"""Less than an event takes in Redis."""


def test_producers_that_are_too_fast_are_slowed_down_and_every_sum_is_exact(redis_url: str, database_url: str) -> None:
    load = Load(events=6000, keys=200, per_second=1e6, rows_per_second=2000, max_pending=1600, shards=2)
    assert memory_bound(load) < load.events * UNBOUNDED_BYTES  # so a Redis without a limit would not stay below it
    shown: list[Sample] = []
    outcome = overload(redis_url, database_url, load, shown.append)
    assert all(outcome.laws.values()), outcome.laws
    assert outcome.samples[-1].waits > 0
    assert shown[-1] == outcome.samples[-1]
    assert shown[-1].saved == load.events - shown[-1].rows
