"""Redis dies while the ingress queue is taken, and forgets where messages were put, but not that they were frozen."""

from collections.abc import Callable

import pytest
import redis

from pipeline import Config, Pipeline
from pipeline.buffer.keys import Keys
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.embedded import Valkey
from pipeline.telemetry import Probe, Step
from tests.integration.conftest import MakeValkey
from tests.unit.broken_messages import raw, stock

KEYS = Keys("pipeline", 1)
MESSAGES = [
    raw(stock("event-1", {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}})),
    b"nonsense",
    raw(stock("event-2", {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}})),
]


@pytest.fixture
def server(make_valkey: MakeValkey) -> Valkey:
    return make_valkey(appendonly="no")  # it keeps what a snapshot has


@pytest.fixture
def look(server: Valkey) -> Callable[..., set[bytes]]:
    """The keys that it has; ``save``: and it will have them when it starts again."""

    def look(*, save: bool = False) -> set[bytes]:
        with redis.Redis.from_url(server.url) as client:
            if save:
                client.save()
            return set(client.keys())

    return look


def dying_at(step: Step, server: Valkey, look: Callable[..., set[bytes]]) -> Probe:
    """A probe with which Redis dies at ``step``, and comes back as it was when the messages were frozen."""
    seen: list[Step] = []

    def probe(taken: Step) -> None:
        seen.append(taken)
        if taken is Step.ARRIVED and seen.count(taken) == 1:
            look(save=True)
        if taken is step and seen.count(taken) == 1:
            assert KEYS.shards[0].events.encode() in look()
            server.kill()
            server.start()
            assert KEYS.shards[0].events.encode() not in look()

    return probe


@pytest.mark.parametrize("step", [Step.REFUSED, Step.ADMITTED], ids=["a dead letter", "events and a dead letter"])
def test_what_redis_has_forgotten_is_put_there_again(
    server: Valkey, look: Callable[..., set[bytes]], step: Step
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.lpush("pipeline", *MESSAGES)
    with Pipeline(Config(redis_url=server.url, shards=1), dying_at(step, server, look)) as pipeline:
        taken = pipeline.take_ingress(read_as_celery)
    assert taken.error is None
    with redis.Redis.from_url(server.url) as client:
        assert client.llen(KEYS.shards[0].events) == len(MESSAGES)
        assert not client.exists(KEYS.ingress_batch, KEYS.ingress_state, *KEYS.ingress)
