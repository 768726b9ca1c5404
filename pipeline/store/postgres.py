"""Apply batches exactly once: PostgreSQL as the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import PoolTimeout

from pipeline.config import Config
from pipeline.core.change import Event
from pipeline.core.failure import Contact, Meaning, classify
from pipeline.errors import ApplyFailed
from pipeline.ports import Applied, Batch, nothing
from pipeline.store.application import Application, text_of_error
from pipeline.store.bulk import MissingColumn, Plan, Shape
from pipeline.store.catalog import Catalog
from pipeline.store.session import Sessions
from pipeline.telemetry import Probe, ignore

__all__ = ["PostgresStore"]

T = TypeVar("T")


class PostgresStore:
    """`pipeline.ports.Store` on PostgreSQL ≥ 15."""

    def __init__(self, sessions: Sessions, config: Config, probe: Probe = ignore) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._recheck_seconds = config.dedupe_window_seconds
        self._probe = probe
        self._catalog = Catalog()
        self._stages: WeakKeyDictionary[psycopg.Connection[Any], set[str]] = WeakKeyDictionary()
        self._plans: dict[tuple[int, Shape], Plan] = {}

    def apply(self, batch: Batch, begin: Callable[[], None] = nothing) -> Applied:
        """See `pipeline.ports.Store.apply`."""

        def run(application: Application) -> Applied:
            return application.run(begin)

        try:
            return self._run(batch, run)
        except ApplyFailed as error:
            if error.meaning != Meaning.SYSTEMIC:
                raise
            self._forget()  # the schema seems wrong, or our copy of it is old: look again, once
        return self._run(batch, run)

    def probe(self, event: Event, *, paused: bool) -> ApplyFailed | None:
        """See `pipeline.ports.Store.probe`."""
        self._forget()
        batch = Batch(shard=-1, id="", seq=0, entries=[event], final=True, failures=0, paused=paused)
        try:
            self._run(batch, Application.rehearse)
        except ApplyFailed as error:
            if error.meaning == Meaning.SYSTEMIC:
                return error
            raise
        return None

    def reachable(self) -> bool:
        """See `pipeline.ports.Store.reachable`."""
        return self._sessions.reachable()

    def _run(self, batch: Batch, run: Callable[[Application], T]) -> T:
        application: Application | None = None
        try:
            with self._sessions.connection() as connection:
                try:
                    application = Application(
                        connection,
                        batch,
                        namespace=self._namespace,
                        catalog=self._catalog,
                        plans=self._plans,
                        probe=self._probe,
                        stages=self._stages.setdefault(connection, set()),
                        recheck_seconds=self._recheck_seconds,
                    )
                    return run(application)
                finally:
                    if connection.info.transaction_status not in {TransactionStatus.IDLE, TransactionStatus.UNKNOWN}:
                        connection.rollback()
        except MissingColumn as error:
            raise ApplyFailed(
                str(error), "42703", Meaning.SYSTEMIC, application.table if application else None
            ) from error
        except (psycopg.Error, PoolTimeout) as error:
            raise _failure(error, application) from error

    def _forget(self) -> None:
        self._catalog.forget()
        self._plans.clear()


def _failure(error: Exception, application: Application | None) -> ApplyFailed:
    sqlstate = getattr(error, "sqlstate", None)
    table = application.table if application else None
    contact = Contact.NEVER if application is None else Contact.KEPT
    if application is not None and application.lost and sqlstate is None:
        contact = Contact.LOST  # without a word: an administrator's end of a session has a SQLSTATE
    return ApplyFailed(text_of_error(error), sqlstate, classify(sqlstate), table, contact)
