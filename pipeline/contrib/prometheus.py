"""Metrics for Prometheus: at every scrape, what `Pipeline.sides` says.

::

    from prometheus_client import REGISTRY
    REGISTRY.register(PipelineCollector(pipeline))

One process per pipeline is enough, since Redis and PostgreSQL are asked and not the process; ``pipeline metrics
--serve`` is one. A side that cannot be asked is ``pipeline_up 0``, and its metrics are missing: a scrape does not fail.
Labels carry names of namespaces, tables, missing columns and sides, and numbers of shards; no key and no value.

Needs the extra ``metrics``; prometheus_client is imported at first use.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pipeline.errors import PipelineError
from pipeline.ports import ShardLedger
from pipeline.status import LaneStatus
from pipeline.wiring import Pipeline

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

__all__ = ["PipelineCollector", "exposition", "serving"]

log = logging.getLogger(__name__)

_SHARD: Final = ("namespace", "shard")

_OF_LANES: Final[Mapping[str, tuple[str, Callable[[LaneStatus], float]]]] = {
    "pipeline_pending_events": (
        "Events accepted and not written to PostgreSQL yet; frozen and parked ones, too.",
        lambda lane: lane.pending,
    ),
    "pipeline_oldest_pending_age_seconds": (
        "Age of the oldest pending event; 0 if there is none.",
        lambda lane: lane.oldest_age or 0.0,
    ),
    "pipeline_frozen_events": ("Events of the batch that is being written.", lambda lane: lane.frozen),
    "pipeline_parked_events": ("Events set aside because their table is paused.", lambda lane: lane.parked),
    "pipeline_batch_failures": ("How often in a row the frozen batch has failed.", lambda lane: lane.failures),
}
"""Gauges of each shard that Redis answers for."""


_OF_LEDGER: Final[Mapping[str, tuple[str, Callable[[ShardLedger], float]]]] = {
    "pipeline_applied_batches_total": ("Batches written to PostgreSQL.", lambda ledger: ledger.seq),
    "pipeline_store_went_back_total": (
        "How often PostgreSQL was found to have gone back in time, as after a restore: what it had is lost.",
        lambda ledger: ledger.store_gaps,
    ),
    "pipeline_dead_letters": (
        "Events that could not be applied, and wait for somebody.",
        lambda ledger: ledger.dead_letters,
    ),
    "pipeline_rechecking": (
        "1 while event ids are looked up because Redis has gone back in time.",
        lambda ledger: ledger.rechecking,
    ),
}
"""Metrics of each shard that PostgreSQL answers for: counters, by their names, and gauges."""


class PipelineCollector:
    """A collector for a registry of prometheus_client. It may be scraped by several threads at once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._namespace = pipeline.config.namespace

    def describe(self) -> list[Metric]:
        """The metrics without values, so that registering asks no server."""
        return [*_up(), *_lane_metrics(), *_ledger_metrics()]

    def collect(self) -> Iterator[Metric]:
        """Ask both sides, and yield what they say."""
        sides = self._pipeline.sides()
        (up,) = _up()
        for name, side in (("redis", sides.buffer), ("postgresql", sides.ledger)):
            away = isinstance(side, PipelineError)
            up.add_metric([self._namespace, name], not away)
            if away:
                log.warning("the metrics lack what only %s knows: %s", name, side)
        yield up
        if not isinstance(sides.buffer, PipelineError):
            yield from self._lanes(sides.buffer.shards)
        if not isinstance(sides.ledger, PipelineError):
            yield from self._ledger({ledger.shard: ledger for ledger in sides.ledger})

    def _lanes(self, lanes: list[LaneStatus]) -> Iterator[Metric]:
        *gauges, paused = _lane_metrics()
        for gauge, (_, value) in zip(gauges, _OF_LANES.values(), strict=True):
            for lane in lanes:
                gauge.add_metric([self._namespace, str(lane.shard)], value(lane))
        for lane in lanes:
            for table in lane.paused:
                paused.add_metric([self._namespace, str(lane.shard), table], 1)
        yield from (*gauges, paused)

    def _ledger(self, known: Mapping[int, ShardLedger]) -> Iterator[Metric]:
        """A shard that never wrote a batch is not in the ledger; a counter has to begin with 0 all the same."""
        for metric, (_, value) in zip(_ledger_metrics(), _OF_LEDGER.values(), strict=True):
            for shard in range(self._pipeline.config.shards):
                ledger = known.get(shard) or ShardLedger(shard, 0, rechecking=False, store_gaps=0, dead_letters=0)
                metric.add_metric([self._namespace, str(shard)], value(ledger))
            yield metric


def _up() -> list[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    return [GaugeMetricFamily("pipeline_up", "1 if this side could be asked.", labels=("namespace", "side"))]


def _lane_metrics() -> list[GaugeMetricFamily]:
    from prometheus_client.core import GaugeMetricFamily

    paused = GaugeMetricFamily(
        "pipeline_table_paused",
        "1 for a table (or table.column) that cannot be written in a shard.",
        labels=(*_SHARD, "table"),
    )
    return [*(GaugeMetricFamily(name, text, labels=_SHARD) for name, (text, _) in _OF_LANES.items()), paused]


def _ledger_metrics() -> list[CounterMetricFamily | GaugeMetricFamily]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    return [
        (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, text, labels=_SHARD)
        for name, (text, _) in _OF_LEDGER.items()
    ]


# --- for the command line


def _registry(pipeline: Pipeline) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(PipelineCollector(pipeline))
    return registry


def exposition(pipeline: Pipeline) -> str:
    """The metrics as they are now, in Prometheus' text format."""
    from prometheus_client import generate_latest

    return generate_latest(_registry(pipeline)).decode()


@contextmanager
def serving(pipeline: Pipeline, host: str, port: int) -> Iterator[tuple[str, threading.Thread]]:
    """Answer HTTP requests in threads, and stop in the end; the URL, and the thread that ends when it is stopped.

    Raises:
        OSError: the address cannot be taken.
    """
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, host, _registry(pipeline))
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics", thread
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
