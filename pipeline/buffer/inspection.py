"""What Redis and the broker say of themselves, for ``pipeline doctor``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import redis

from pipeline.arrivals import Depth
from pipeline.buffer.connection import connect, translated
from pipeline.buffer.keys import Keys
from pipeline.config import Config
from pipeline.core.health import BrokerFacts, BufferFacts
from pipeline.errors import BufferUnavailable, TopologyMismatch

__all__ = ["inspect_arrivals", "inspect_broker", "inspect_buffer"]

_LONGEST_LOOK_SECONDS: Final = 5.0
"""Nobody wants to wait longer for a doctor. Where beat ticks less often than twice in it, nothing can be said."""

_PORTS: Final = {"amqp": 5672, "pyamqp": 5672, "amqps": 5671, "sentinel": 26379}


def inspect_buffer(client: redis.Redis, check_topology: Callable[[], None]) -> BufferFacts:
    """Ask Redis; nothing is written, except that its scripts are loaded.

    Raises:
        BufferUnavailable: it could not be reached.
    """
    raw: Any = client
    with translated():
        info: dict[str, Any] = raw.info("everything")
        fsync = _setting(raw, "appendfsync")
        policy = info.get("maxmemory_policy") or _setting(raw, "maxmemory-policy")
        script_problem = _load_scripts(raw)
    try:
        check_topology()
        topology_problem = None
    except TopologyMismatch as error:
        topology_problem = str(error)
    return BufferFacts(
        version=str(info.get("redis_version", "0")),
        role=str(info.get("role", "master")),
        policy=policy,
        append_only=bool(info.get("aof_enabled", 0)),
        append_fsync=fsync,
        last_write_ok=info.get("aof_last_write_status", "ok") == "ok",
        used_memory=int(info.get("used_memory", 0)),
        max_memory=int(info.get("maxmemory", 0)),
        system_memory=int(info.get("total_system_memory", 0)),
        evicted=int(info.get("evicted_keys", 0)),
        topology_problem=topology_problem,
        script_problem=script_problem,
    )


def _setting(client: Any, name: str) -> str | None:
    """A hosted Redis may not let its clients see its settings."""
    try:
        return dict(client.config_get(name)).get(name)
    except redis.exceptions.ResponseError:
        return None


def _load_scripts(client: Any) -> str | None:
    try:
        for script in (files("pipeline.buffer") / "lua").iterdir():
            client.script_load(script.read_text("utf-8"))
    except redis.exceptions.ResponseError as error:
        return str(error)
    return None


def inspect_arrivals(client: redis.Redis, config: Config) -> Depth | None:
    """Where messages of Celery clients lie, ``None`` if that is not this Redis; raises `BufferUnavailable`."""
    if not config.shares_broker:
        return None
    with translated():
        return _depth(client, Keys(config.namespace, config.shards))


def _depth(client: Any, keys: Keys) -> Depth:
    pipe = client.pipeline(transaction=False)
    for key in (*keys.ingress, keys.ingress_batch, keys.others, *(shard.waiting for shard in keys.shards)):
        pipe.llen(key)
    *lengths, taken, for_celery = (found := pipe.execute())[: len(keys.ingress) + 2]
    waiting = sum(found[len(keys.ingress) + 2 :])
    return Depth(queued=sum(lengths), taken=taken, waiting=waiting, for_celery=for_celery)


def inspect_broker(config: Config, sleep: Callable[[float], object]) -> BrokerFacts:
    """See that the broker answers, and how much waits in its queues if it is a Redis.

    If messages of clients wait in it, it looks again after some ticks of beat, with a ``sleep`` of some seconds.

    Of several URLs, which Celery separates by semicolons, one that answers is enough.

    Raises:
        BufferUnavailable: none could be reached.
    """
    problems = []
    for url in filter(None, map(str.strip, config.broker_url.split(";"))):
        try:
            return _ask_broker(config, url, sleep)
        except BufferUnavailable as error:
            problems.append(error.problem)
    raise BufferUnavailable("; ".join(problems) or "PIPELINE_BROKER_URL names no server")


def _ask_broker(config: Config, url: str, sleep: Callable[[float], object]) -> BrokerFacts:
    place = urlsplit(url)
    if place.scheme in {"redis", "rediss", "unix"}:
        return _queues(msgspec.structs.replace(config, redis_url=url), sleep)
    port = _PORTS.get(place.scheme) and (place.port or _PORTS[place.scheme])
    if place.hostname and port:  # else it is no server that we know: sqs, memory …
        try:
            socket.create_connection((place.hostname, port), config.redis_timeout_seconds).close()
        except OSError as error:
            raise BufferUnavailable(f"the broker at {place.hostname}:{port}: {error}") from error
    return BrokerFacts(waiting_control=None, waiting_ingress=None)


def _queues(config: Config, sleep: Callable[[float], object]) -> BrokerFacts:
    keys = Keys(config.namespace, config.shards)
    client: Any = connect(config)
    try:
        with translated():
            control, depth = client.llen(keys.control), _depth(client, keys)
            unmoved = _unmoved_seconds(client, keys, 2 * config.flush_interval_seconds, sleep)
    finally:
        client.close()
    ingress = depth.queued + depth.taken + depth.waiting + depth.for_celery
    return BrokerFacts(waiting_control=control, waiting_ingress=ingress, unmoved_seconds=unmoved)


def _unmoved_seconds(client: Any, keys: Keys, seconds: float, sleep: Callable[[float], object]) -> float | None:
    """``seconds`` if nobody takes a message of the ingress queue for so long although there are some.

    A message does not say when it was sent. So this looks twice whether the oldest is the same and nobody has it.
    """
    if seconds > _LONGEST_LOOK_SECONDS or (before := _next_to_take(client, keys)) is None:
        return None
    sleep(seconds)
    return seconds if _next_to_take(client, keys) == before else None


def _next_to_take(client: Any, keys: Keys) -> tuple[int, bytes] | None:
    """The list and the message that is next; ``None`` if there is none, or somebody is taking them."""
    pipe = client.pipeline(transaction=True)
    pipe.exists(keys.ingress_lease)
    lists = (keys.ingress_batch, *keys.ingress)
    for key in lists:
        pipe.lindex(key, -1)
    taking, *oldest = pipe.execute()
    return None if taking else next(((n, message) for n, message in enumerate(oldest) if message is not None), None)
