"""One run: ours and the alternatives, on the same servers, with the same rows, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final, NamedTuple, cast

import msgspec
import psycopg
import redis
from celery import Celery

from pipeline import Config, Pipeline
from pipeline.bench.clock import Measure, Sample, take_turns
from pipeline.bench.machine import machine
from pipeline.bench.measures import COUNTER, Bench, Sizes, of
from pipeline.bench.workload import UPSERTS, Workload
from pipeline.contrib.celery import register
from pipeline.contrib.embedded import Servers
from scripts.benchmark.drains import SETTINGS, Drains
from scripts.benchmark.flat import BACKLOGS, FOLDED, POISONED, flat, folding, poison
from scripts.benchmark.flights import REAL
from scripts.benchmark.goals import GOALS, of_flat, of_latency, of_ratios
from scripts.benchmark.latency import RATES, latencies
from scripts.benchmark.result import Result
from scripts.benchmark.stopping import Stop
from scripts.benchmark.workers import Workers, cpu_of
from settings import CONFIG

__all__ = ["Plan", "run"]


class Plan(NamedTuple):
    """``events``: drained in a round, of each workload; ``rows``: for what takes one row or one task at a time.

    ``judged``: whether the sizes are those that the goals are meant for.

    ``rates`` and ``seconds``: see `latencies`; ``backlogs``, ``folded``, ``poisoned``: see `flat`, `folding`, `poison`.
    """

    events: int = 200_000
    rows: int = 3000
    singles: int = 2000
    rounds: int = 3
    batches: bool = True
    rates: tuple[float | None, ...] = RATES
    seconds: float = 20.0
    backlogs: tuple[int, ...] = BACKLOGS
    folded: tuple[int, int] = FOLDED
    poisoned: int = POISONED
    judged: bool = True


QUICK: Final = Plan(
    events=4000,
    rows=1000,
    singles=200,
    rounds=1,
    rates=(1000.0,),
    seconds=2.0,
    backlogs=(1000, 10_000),
    folded=(10_000, 1000),
    poisoned=300,
    judged=False,
)


def run(plan: Plan, say: Callable[[str], None], stop: Stop) -> Result:
    """Measure everything. Raises `Interrupted`, and leaves nothing behind."""
    with _running(plan, say, stop) as running:
        found = take_turns(running.measures(), plan.rounds, say)
        missing = _missing(running.workers.missing)
        versions = _versions(running.servers)
    latency = latencies(plan.rates, plan.seconds, say)
    drains = flat(plan.backlogs, say)
    folded, poisoned = folding(*plan.folded, say), poison(plan.poisoned, say)
    lines = {
        **of_ratios(found, missing),
        **of_latency(latency, CONFIG.flush_interval_seconds),
        **of_flat(drains, folded, poisoned),
    }
    return Result(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        versions=versions,
        sizes={"Rounds": plan.rounds, "events in each": plan.events, "rows or tasks one by one": plan.rows},
        workloads={one.name: one.title for one in REAL},
        measured=found,
        missing=missing,
        latency=latency,
        flat=drains,
        folding=folded,
        poison=poisoned,
        lines=[lines[name] if plan.judged else msgspec.structs.replace(lines[name], ok=None) for name in GOALS],
    )


class _Running:
    """Servers and workers that are up, and what is measured with them."""

    def __init__(self, servers: Servers, bench: Bench, workers: Workers, drains: Drains, app: Celery) -> None:
        self.servers = servers
        self.workers = workers
        self._bench = bench
        self._drains = drains
        self._app = app

    def measures(self) -> dict[str, Measure]:
        """In the order in which they take turns."""
        bench = self._bench
        measures: dict[str, Measure] = {"writes": self._writes, "reads": bench.reads, "misses": bench.misses}
        for workload in bench.workloads:
            measures |= self._of_workload(workload)
        return {name: self._rested(measure) for name, measure in measures.items()}

    def _rested(self, measure: Measure) -> Measure:
        def measured() -> Mapping[str, Sample]:
            self._drains.rest()
            return measure()

        return measured

    def _of_workload(self, workload: Workload) -> dict[str, Measure]:
        bench, drains = self._bench, self._drains
        works: dict[str, Callable[[], Sample]] = {
            of("write_many", workload.name): lambda: bench.write_many(workload, self._meter),
            of("drain", workload.name): lambda: drains.ours(workload),
            of("stock task per row", workload.name): lambda: drains.task_per_row("stock", workload),
        }
        if "batches" not in self.workers.missing:
            works[of("celery-batches", workload.name)] = lambda: drains.task_per_row("batches", workload)
        if workload.name == UPSERTS:
            works[of("drain of delay()", workload.name)] = lambda: drains.ingress(workload)
        measures = {name: _named(name, work) for name, work in works.items()}
        return measures | bench.direct(workload, self._meter)

    def _writes(self) -> Mapping[str, Sample]:
        task = self._app.tasks[f"{self._bench.config.namespace}.apply_event"]
        keys = self._bench.keys(self._bench.sizes.singles // 2)
        return self._bench.writes(
            {"apply_event.delay": (lambda key: task.delay(table=COUNTER, key=key, add={"hits": 1}), keys)}
        )

    def _meter(self) -> Mapping[str, float]:
        return {**self._bench.meter(), "PostgreSQL": cpu_of(self.servers.postgres.pid)}


def _named(name: str, work: Callable[[], Sample]) -> Measure:
    return lambda: {name: work()}


@contextmanager
def _running(plan: Plan, say: Callable[[str], None], stop: Stop) -> Iterator[_Running]:
    with ExitStack() as stack:
        say("starting Valkey and Postgres")
        with stop.later():
            servers = stack.enter_context(Servers(postgres_settings=SETTINGS))
        config = Config(redis_url=servers.redis_url, database_url=servers.database_url)
        with Pipeline(config) as pipeline:
            pipeline.migrate()
        sizes = Sizes(plan.singles, plan.events, plan.rows)
        bench = stack.enter_context(Bench(config, sizes, REAL))
        say("starting workers")
        with stop.later():
            workers = stack.enter_context(Workers(servers, bench, batches=plan.batches))
        drains = stack.enter_context(closing(Drains(servers, bench, workers, plan.rows)))
        app = stack.enter_context(Celery("bench", broker=servers.redis_url, set_as_current=False))
        register(app, bench.pipeline)
        app.conf.task_routes = {"*": {"queue": drains.waiting}}  # nobody consumes that
        yield _Running(servers, bench, workers, drains, app)


def _missing(missing: Mapping[str, str]) -> dict[str, str]:
    names = {"batches": "celery-batches"}
    return {of(names[kind], workload.name): why for kind, why in missing.items() for workload in REAL}


def _versions(servers: Servers) -> dict[str, str]:
    with redis.Redis.from_url(servers.redis_url) as client, psycopg.connect(servers.database_url) as connection:
        info = cast("dict[str, Any]", client.info("server"))
        postgres = f"{connection.info.server_version // 10000}.{connection.info.server_version % 10000}"
    name = str(info.get("server_name", "redis")).capitalize()
    found = {name: str(info.get(f"{name.lower()}_version", info["redis_version"])), "PostgreSQL": postgres}
    return found | {name: version(name) for name in ("celery", "kombu", "redis", "psycopg")}
