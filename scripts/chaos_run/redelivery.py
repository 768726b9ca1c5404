"""What Celery does after its visibility timeout, at once."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from celery import Celery
from redis import Redis

__all__ = ["HANDS", "redeliver", "restore"]

TIMEOUT_SECONDS: Final = 5.0
HANDS: Final = "chaos.hands:"
"""Prefix of the lists of messages that a worker has taken out of a queue, whose name follows."""


def restore(client: Redis, random: Random) -> None:
    """Put everything that was taken out of shard queues back, in any order, to either end of the hand."""
    server: Any = client  # redis-py annotates its replies as unions of sync and async results
    for hands in server.keys(f"{HANDS}*"):
        queue = hands.decode().removeprefix(HANDS)
        while server.lmove(hands, queue, random.choice(["LEFT", "RIGHT"]), "RIGHT"):
            pass


def redeliver(broker_url: str) -> int:
    """Put all messages that are delivered and not acknowledged back into their queues; how many there were."""
    with Celery("redelivery", broker=broker_url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"socket_timeout": TIMEOUT_SECONDS}
        with app.connection_for_write() as connection:
            channel: Any = connection.default_channel  # of the Redis transport, which is not typed
            with channel.conn_or_acquire() as client:
                tags = client.hkeys(channel.unacked_key)
            for tag in tags:  # not restore_visible: a worker that was killed may hold its mutex for five minutes
                channel.qos.restore_by_tag(tag.decode())
    return len(tags)
