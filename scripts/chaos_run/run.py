"""The run from start to end: disturb, heal, wait, compare."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import psycopg

from pipeline import Pipeline, PipelineError
from pipeline.contrib.embedded import EmbeddedServerError
from scripts.chaos_run.check import Verdict, check
from scripts.chaos_run.drain import NotDrained, drain, leftovers
from scripts.chaos_run.evidence import collect
from scripts.chaos_run.history import History, losses
from scripts.chaos_run.journal import now, read
from scripts.chaos_run.lanes import FaultLog, Lane, Turn, nothing
from scripts.chaos_run.numbers import Numbers
from scripts.chaos_run.options import Options, parse
from scripts.chaos_run.postgres_faults import POSTGRES_FAULTS, PostgresFaults
from scripts.chaos_run.process_faults import ENDED, PROCESS_FAULTS, STOCK_FAULTS, ProcessFaults, StockFaults
from scripts.chaos_run.redis_faults import REDIS_FAULTS, RedisFaults
from scripts.chaos_run.report import around, describe, explain, summarize
from scripts.chaos_run.world import World
from scripts.terminal.display import Display, make_display
from scripts.terminal.interrupts import Interrupted, Interrupts

__all__ = ["main"]

T = TypeVar("T")

POLL_SECONDS: Final = 0.2
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 70.0
LINE_SECONDS: Final = 5.0
KINDS: Final = (*REDIS_FAULTS, *POSTGRES_FAULTS, *PROCESS_FAULTS, *STOCK_FAULTS)

DISTURBING_TRANSPORT: Final = frozenset({
    "worker_killed", "worker_stopped", "redis_killed", "redis_restarted", "redis_back_in_time", "redis_cut",
    "redis_connections_broken", "redis_deaf", "redis_full",
})  # fmt: skip
"""Faults that may lose a message which Celery has taken out of a list and not yet noted as unacknowledged."""


class RunFailed(Exception):
    """The runner itself, or a process under test, did what it must not."""


def main(arguments: Sequence[str]) -> int:
    """Run; the exit code."""
    options = parse(arguments, KINDS)
    interrupts = Interrupts()
    display = make_display(LINE_SECONDS)
    world = World(options)
    keep = True
    try:
        result = _Run(options, world, interrupts, display).run()
        keep = options.keep or not result["ok"]
    except Interrupted as interrupted:
        keep = options.keep
        display.say("Interrupted. Everything that was started has been stopped.")
        return 128 + interrupted.signum
    except (EmbeddedServerError, RunFailed, PipelineError, psycopg.Error, OSError) as error:
        result = {"ok": False, "seed": options.seed, "error": str(error)}
        display.say(f"\n{error}")
    finally:
        display.close()
        interrupts.ignore()
        world.stop(keep=keep)
    if keep:
        display.say(f"Journals and logs: {world.directory}")
        result["directory"] = str(world.directory)
    if options.json:
        print(json.dumps(result, default=str, ensure_ascii=False))
    return 0 if result["ok"] else 1


class _Run:
    """One run."""

    def __init__(self, options: Options, world: World, interrupts: Interrupts, display: Display) -> None:
        self._options = options
        self._world = world
        self._interrupts = interrupts
        self._display = display
        self._began = now()
        self._log = FaultLog(world.directory / "faults.jsonl")
        self._processes = ProcessFaults(world, self._log)
        self._shown = 0.0

    def run(self) -> dict[str, Any]:
        """Everything; the result as one JSON object."""
        self._display.say(f"Seed {self._options.seed}; starting everything in {self._world.directory} …")
        self._world.start()
        self._interrupts.check()
        self._world.start_processes()
        self._await_work()
        self._disturb()
        self._display.say("Healing everything, and waiting until nothing is pending …")
        self._world.heal()
        self._processes.revive()
        self._stop_producers()
        stuck = self._drain()
        return self._compare(stuck)

    def _await_work(self) -> None:
        """A fault that comes before there is something to disturb shows nothing."""
        until = now() + START_SECONDS
        while not self._world.at_work:
            self._interrupts.check()
            if now() > until:
                raise RunFailed(f"nothing was committed within {START_SECONDS:.0f} s after the start")
            time.sleep(POLL_SECONDS)

    # --- the disturbed part

    def _disturb(self) -> None:
        lanes = self._lanes()
        until = now() + self._options.minutes * 60
        began = now()
        for lane in lanes:
            lane.start()
        try:
            while now() < until:
                self._interrupts.check()
                if failed := [lane.error for lane in lanes if lane.error]:
                    raise RunFailed(failed[0])
                self._show(now() - began)
                time.sleep(POLL_SECONDS)
        finally:
            for lane in lanes:
                lane.end()
            for lane in lanes:
                lane.join()
        if failed := [lane.error for lane in lanes if lane.error]:
            raise RunFailed(failed[0])

    def _lanes(self) -> list[Lane]:
        world, processes = self._world, self._processes
        return [
            self._lane("redis", REDIS_FAULTS, RedisFaults(world)),
            self._lane("postgres", POSTGRES_FAULTS, PostgresFaults(world)),
            self._lane("processes", PROCESS_FAULTS, processes, processes.revive),
            self._lane("stock", STOCK_FAULTS, StockFaults(world)),
        ]

    def _lane(
        self,
        name: str,
        faults: Mapping[str, Callable[[T, Turn], None]],
        actor: T,
        between: Callable[[], None] = nothing,
    ) -> Lane:
        return Lane(
            name,
            {kind: partial(fault, actor) for kind, fault in faults.items() if self._wanted(kind)},
            Random(f"{self._options.seed}:{name}"),  # noqa: S311 - to be repeated, not to be secret
            self._log,
            between,
        )

    def _wanted(self, kind: str) -> bool:
        options = self._options
        return (not options.faults or kind in options.faults) and kind not in options.without

    def _show(self, seconds: float) -> None:
        if now() < self._shown + 1:
            return
        self._shown = now()
        pending = dead = None
        with suppress(PipelineError), Pipeline(self._world.config) as pipeline:
            status = pipeline.status()
            pending, dead = status.pending, status.dead_letters
        events = sum(_lines(path) for path in self._world.producers.paths) // 2
        faults = sum(self._log.counts.values())
        self._display.show(Numbers(seconds, self._options.minutes * 60, faults, events, pending, dead).shown)

    # --- the end

    def _stop_producers(self) -> None:
        for process in self._world.producers.processes:
            process.stop(STOP_SECONDS)

    def _drain(self) -> str | None:
        try:
            drain(self._world, self._options.drain_seconds, self._interrupts.check, late=True)
            self._world.add_late_column()
            drain(self._world, self._options.drain_seconds, self._interrupts.check)
        except NotDrained as error:
            return str(error)
        return None

    def _compare(self, stuck: str | None) -> dict[str, Any]:
        world = self._world
        history = History(read(world.producers.paths))
        lines = list(read([self._log.path]))
        faults = [line for line in lines if "fault" in line]
        with world.database() as connection:
            verdict = check(
                history, collect(connection), losses(faults), transport_losses=self._transport_losses(lines)
            )
            if stuck is not None:
                verdict.found("not drained", stuck)
            result = self._summary(history, verdict, lines)
            result["lost_by_celery"] = [around(record, faults) for record in verdict.in_transport]
            if verdict.first is not None:
                result["violation"] = explain(verdict.first, history, faults, connection)
                result["texts"] = [violation.text for violation in verdict.violations[:20]]
        self._display.close()
        for line in describe(result):
            self._display.say(line)
        return result

    def _summary(self, history: History, verdict: Verdict, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        odd = [f"{line['process']} ended by itself: {line['why']}" for line in lines if line.get("note") == ENDED]
        if left := leftovers(self._world):
            odd.append(f"{left} overlays are left in Redis though nothing is pending")
        return summarize(
            history,
            verdict,
            self._log.counts,
            seed=self._options.seed,
            seconds=round(now() - self._began, 1),
            shards=self._options.shards,
            odd=odd,
        )

    def _transport_losses(self, lines: Sequence[Mapping[str, Any]]) -> int:
        """Each worker takes one message at a time out of a list."""
        died: int = sum(line.get("note") == ENDED for line in lines)
        times: int = sum(line.get("times", 1) for line in lines if line.get("fault") in DISTURBING_TRANSPORT)
        return died + times * len(self._world.workers)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
