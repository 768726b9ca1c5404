"""The demo from start to end: start, play, wait, compare, stop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg

from pipeline import Pipeline, PipelineError
from pipeline.contrib.embedded import EmbeddedServerError
from scripts.demo_flights.application import Application
from scripts.demo_flights.check import Comparison, Work, compare, create_tables, load, work_done
from scripts.demo_flights.display import show_table, shown
from scripts.demo_flights.flights import DataMissing, days
from scripts.demo_flights.monitor import Monitor, Numbers, Stalled, describe
from scripts.demo_flights.options import Options, parse
from scripts.demo_flights.services import ProcessDied, Services
from scripts.terminal.display import Display, make_display
from scripts.terminal.interrupts import Interrupted, Interrupts

__all__ = ["main"]

SHOW_SECONDS: Final = 0.25
LINE_SECONDS: Final = 1.0
HIGH_WATER: Final = 100_000
"""Pending events at which the application waits for the flush: Redis needs less than 100 MB for them."""

KILL_AT: Final = 0.5
REVIVE_AT: Final = 0.6
KILL_SECONDS: Final = 5.0
KILLED: Final = ("worker", "beat")

_FAILURES: Final = (
    DataMissing, EmbeddedServerError, OSError, PipelineError, ProcessDied, Stalled, psycopg.Error,
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit code."""
    options = parse(arguments)
    interrupts = Interrupts()
    display = make_display(LINE_SECONDS)
    began = time.monotonic()
    try:
        with _services(options, interrupts, display) as services:
            with Pipeline.from_env(services.environment) as pipeline:
                demo = _Demo(options, services, pipeline, interrupts, display)
                comparisons = demo.run()
            demo.report(comparisons, time.monotonic() - began)
    except Interrupted as interrupted:
        return _interrupted(interrupted.signum, display)
    except _FAILURES as error:
        if interrupts.signum is not None:  # Ctrl-C in a terminal reaches child processes too, and one has died of it
            return _interrupted(interrupts.signum, display)
        display.say(f"\n{error}")
        if options.json:
            print(json.dumps({"ok": False, "error": str(error)}))
        return 1
    return 0 if demo.ok else 1


def _interrupted(signum: int, display: Display) -> int:
    display.say("Interrupted. Everything that was started has been stopped.")
    return 128 + signum


@contextmanager
def _services(options: Options, interrupts: Interrupts, display: Display) -> Iterator[Services]:
    """Everything that is needed, started; and stopped at the end, unless it is to be kept and all went well."""
    with ExitStack() as stack:
        stack.callback(display.close)
        services = Services(flower=options.flower)
        stack.push(lambda kind, *_: _end(services, interrupts, quickly=kind is not None))
        display.say(f"Starting Valkey and Postgres in {services.directory} …")
        services.servers.start()
        interrupts.check()
        with psycopg.connect(services.servers.database_url, autocommit=True) as connection:
            create_tables(connection)
        with Pipeline.from_env(services.environment) as pipeline:
            pipeline.migrate()
        display.say("Starting the worker and beat …")
        for name in services.names:
            services.start(name)
            interrupts.check()
        yield services
        if options.keep:
            stack.pop_all()
            display.close()
            _keep(services, display)


def _end(services: Services, interrupts: Interrupts, *, quickly: bool) -> None:
    interrupts.ignore()
    services.stop(quickly=quickly)


def _keep(services: Services, display: Display) -> None:
    script = services.release()
    display.say("\nStill up:")
    for name, url in services.urls.items():
        display.say(f"  {name:<10}{url}")
    display.say(f"  {'logs':<10}{services.directory}/*.log")
    display.say("Look at it:")
    for name in ("PIPELINE_REDIS_URL", "PIPELINE_DATABASE_URL"):
        display.say(f"  export {name}={services.environment[name]}")
    display.say("  .venv/bin/pipeline status")
    display.say("  .venv/bin/pipeline dead-letters list")
    display.say(f"Stop it:\n  {script}")


class _Demo:
    """One run against running services. ``ok`` says afterwards whether every number was right."""

    def __init__(
        self, options: Options, services: Services, pipeline: Pipeline, interrupts: Interrupts, display: Display
    ) -> None:
        self._options = options
        self._services = services
        self._pipeline = pipeline
        self._interrupts = interrupts
        self._display = display
        self._application = Application(pipeline)
        self._connection: psycopg.Connection[Any] = psycopg.connect(services.servers.database_url, autocommit=True)
        self._monitor = Monitor(pipeline, self._connection, interrupts.check)
        self._down: tuple[str, ...] = ()
        self._killed = not options.kill
        self._looked = 0.0
        self._seconds = 0.0
        self._work = Work(0, 0, 0)
        self.ok = False

    def run(self) -> list[Comparison]:
        """Play the flights, wait until they are committed, and compare."""
        self._display.say(f"Playing {self._options.flights:,} flights of 2013 …")
        with self._connection:
            start = time.monotonic()
            for _ in self._application.play(days(self._options.flights)):
                self._go_on()
            self._revive()
            self._drain()
            self._application.clean_up()
            self._drain()
            self._seconds = time.monotonic() - start
            self._display.close()
            self._display.say("Comparing Postgres with the CSV file …")
            load(self._connection, self._options.flights)
            self._interrupts.check()
            comparisons = compare(self._connection, self._application.events)
            self._work = work_done(self._connection)
            self._interrupts.check()
        self.ok = all(comparison.equal for comparison in comparisons)
        return comparisons

    # --- while it plays

    def _go_on(self) -> None:
        """Between two writes: look, if it is time to; kill, if it is time to; wait, if too much is pending."""
        self._interrupts.check()
        if not self._killed and self._application.flights >= self._options.flights * KILL_AT:
            self._kill()
        if self._down and self._application.flights >= self._options.flights * REVIVE_AT:
            self._revive()
        if time.monotonic() - self._looked < SHOW_SECONDS:
            return
        if self._look().pending > HIGH_WATER:
            self._revive()
            self._wait_for(HIGH_WATER, "the flush cannot keep up")

    def _look(self) -> Numbers:
        self._services.check(without=self._down)
        done = self._application
        try:
            numbers = self._monitor.look(flights=done.flights, events=done.events, changes=done.changes)
        except Stalled as stalled:
            raise self._with_log(stalled) from stalled
        self._display.show(shown(numbers, self._options.flights))
        self._looked = time.monotonic()
        return numbers

    def _drain(self) -> None:
        self._wait_for(0, "the pipeline does not run empty")

    def _wait_for(self, pending: int, problem: str) -> None:
        if not self._monitor.wait(lambda: self._look().pending <= pending):
            raise self._with_log(Stalled(describe(self._pipeline.status(), problem)))

    def _with_log(self, stalled: Stalled) -> Stalled:
        return Stalled(f"{stalled}\nThe worker's log ends with:\n{self._services.log_tail('worker')}")

    # --- the disaster

    def _kill(self) -> None:
        """SIGKILL to the worker and beat, while a batch is under way if one can be caught."""
        self._killed = True
        self._monitor.wait(lambda: self._pipeline.status().frozen > 0, KILL_SECONDS, poll=0.0)
        pids = ", ".join(f"{name} {self._services.pid(name)}" for name in KILLED)
        self._services.kill(*KILLED)
        self._down = KILLED
        status = self._pipeline.status()
        self._display.say(f"kill -9 {pids}: {status.pending:,} events pending, {status.frozen:,} of them in batches")

    def _revive(self) -> None:
        if not self._down:
            return
        self._display.say("Starting the worker and beat again …")
        for name in self._down:
            self._services.start(name)
            self._interrupts.check()
        self._down = ()

    # --- the end

    def report(self, comparisons: Sequence[Comparison], seconds: float) -> None:
        """Show what came out."""
        show_table(comparisons, self._speed(seconds), stderr=self._options.json)
        if self._options.json:
            print(json.dumps(self._result(comparisons)))

    def _speed(self, seconds: float) -> list[str]:
        application, work = self._application, self._work
        changes = application.changes - work.dead
        writing = application.events / application.writing_seconds
        throughput = application.events / self._seconds
        return [
            f"{application.events:,} events written in {application.writing_seconds:.1f} s: {writing:,.0f}/s",
            f"All committed {self._seconds:.1f} s after the first write: {throughput:,.0f} events/s from end to end",
            f"{work.rows:,} rows written for {changes:,} changes: folding saved {1 - work.rows / changes:.0%}",
            f"{'Every number is right' if self.ok else 'WRONG'}, after {seconds:.1f} s in all.",
        ]

    def _result(self, comparisons: Sequence[Comparison]) -> dict[str, Any]:
        return {
            "events": self._application.events,
            "applied": self._work.events - self._work.dead,
            "dead_letters": self._work.dead,
            "lost": sum(comparison.missing for comparison in comparisons),
            "doubled": sum(comparison.surplus for comparison in comparisons),
            "rows_written": self._work.rows,
            "seconds": round(self._seconds, 3),
            "ok": self.ok,
        }
