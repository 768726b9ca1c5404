"""What Celery does after its visibility timeout, at once."""

from __future__ import annotations

from typing import Any, Final

from celery import Celery

__all__ = ["redeliver"]

TIMEOUT_SECONDS: Final = 5.0


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
