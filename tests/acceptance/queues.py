"""What workers say that they consume."""

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tests.acceptance.waiting import wait_until


def active_queues(client: Celery) -> set[str]:
    """The names of the queues that the only worker consumes."""
    found: list[set[str]] = []

    def answered() -> bool:
        try:
            replies = client.control.inspect(timeout=5.0).active_queues() or {}
        except (OperationalError, redis.ConnectionError):  # a pooled connection that the server has closed meanwhile
            return False
        found[:] = [{queue["name"] for queue in taken} for taken in replies.values()]
        return bool(found)

    wait_until(answered, "an answer of the worker")
    (queues,) = found
    return queues
