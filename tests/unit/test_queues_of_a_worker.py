"""A worker leaves the ingress queue to the flush only if that takes the very same queue."""

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from pipeline import Config, Pipeline
from pipeline.contrib.celery import _take_in_bulk, register

URL = "redis://127.0.0.1:6379/0"
ALL = {"celery", "pipeline", "pipeline.control"}


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("shop", broker=URL, set_as_current=False)
    yield app
    app.close()


def queues(app: Celery, consumed: set[str] = ALL, **settings: Any) -> set[str]:
    """What a worker consumes that was started with ``-Q`` and ``consumed``."""
    config = Config(redis_url=URL, **settings)
    with Pipeline(config) as pipeline:
        register(app, pipeline)
    app.amqp.queues.select(sorted(consumed))
    _take_in_bulk(app, config)
    return set(app.amqp.queues.consume_from)


def test_it_takes_what_only_celery_can_handle_instead(app: Celery) -> None:
    assert queues(app) == {"celery", "pipeline.control", "pipeline.others"}


def test_another_namespace_has_queues_of_its_own(app: Celery) -> None:
    assert queues(app, {"celery", "shop", "shop.control"}, namespace="shop") == {
        "celery",
        "shop.control",
        "shop.others",
    }


def test_a_worker_of_other_queues_is_left_alone(app: Celery) -> None:
    assert queues(app, {"celery", "pipeline.control"}) == {"celery", "pipeline.control"}


def test_with_another_broker_nothing_is_taken_in_bulk(app: Celery) -> None:
    assert queues(app, broker_url="amqp://guest@127.0.0.1//") == ALL


def test_a_worker_may_be_told_to_take_the_queue_one_by_one(app: Celery) -> None:
    assert queues(app, ingress_batch=0) == {*ALL, "pipeline.others"}


@pytest.mark.parametrize(
    "options",
    [{"global_keyprefix": "shop:"}, {"sep": ":"}, {"priority_steps": [0, 1]}],
    ids=lambda found: next(iter(found)),
)
def test_a_queue_that_lies_in_other_lists_is_taken_by_the_worker(app: Celery, options: dict[str, Any]) -> None:
    app.conf.broker_transport_options = options
    assert queues(app) == {*ALL, "pipeline.others"}


def test_a_queue_in_another_redis_is_taken_by_the_worker() -> None:
    elsewhere = Celery("shop", broker="redis://127.0.0.1:6380/0", set_as_current=False)
    assert queues(elsewhere) == {*ALL, "pipeline.others"}
    elsewhere.close()
