"""What the tests of durability do to pipelines and servers, and see of them."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pipeline import Change, Pipeline, PipelineError, Receipt
from pipeline.contrib.embedded import Valkey
from pipeline.core.change import Event
from pipeline.core.codec import decode
from tests.integration.conftest import MakeValkey
from tests.integration.scene import eventually

NEVER_SECONDS = 60.0
"""A wait that does not end in the time of a test."""


def view(pipeline: Pipeline, page: int = 1, **options: Any) -> Receipt:
    return pipeline.write("page_views", key={"page_id": page}, add={"views": 1}, **options)


def views(count: int) -> list[Change]:
    return [Change("page_views", key={"page_id": page}, add={"views": 1}) for page in range(count)]


def pages(server: Valkey) -> list[int]:
    """The pages of the events in the queue of shard 0, oldest first."""
    with redis.Redis.from_url(server.url) as client:
        entries = [decode(message, "pipeline.apply_event") for message in client.lrange("pipeline.events.{0}", 0, -1)]
    events = [entry for entry in entries if isinstance(entry, Event)]
    assert len(events) == len(entries)
    return [event.changes[0].key["page_id"] for event in reversed(events)]


def replica_of(primary: Valkey, make_valkey: MakeValkey) -> Valkey:
    replica = make_valkey(replicaof=("127.0.0.1", primary.port), masterauth=primary.password, appendonly="no")
    online(primary)
    return replica


def online(primary: Valkey) -> None:
    """Wait until a replica follows."""
    with redis.Redis.from_url(primary.url) as client:
        eventually(lambda: client.info("replication").get("slave0", {}).get("state") == "online", "no replica follows")


def waits(server: Valkey) -> None:
    """Wait until somebody waits for an answer."""
    with redis.Redis.from_url(server.url) as client:
        eventually(lambda: client.info("clients")["blocked_clients"] == 1, "nobody waits")


def watched(server: Valkey, work: Callable[[], object]) -> list[tuple[str, str]]:
    """What clients send while ``work`` is done, as pairs of the connection and the command's name."""
    with redis.Redis.from_url(server.url) as client, redis.Redis.from_url(server.url) as observer:
        client.ping()  # so that it is connected before anybody looks
        with observer.monitor() as monitor:
            return _until_done(monitor, client, work)


def _until_done(monitor: Any, client: Any, work: Callable[[], object]) -> list[tuple[str, str]]:
    work()
    client.echo("done")
    seen: list[tuple[str, str]] = []
    for command in monitor.listen():
        if command["command"].startswith("ECHO"):
            break
        if command["client_type"] != "lua":
            seen.append((f"{command['client_address']}:{command['client_port']}", command["command"].split()[0]))
    return seen


def refused(error: type[PipelineError], work: Callable[[], object]) -> None:
    with pytest.raises(error):
        work()
