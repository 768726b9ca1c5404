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
from pipeline.core.failure import Contact, Meaning
from pipeline.errors import ApplyFailed
from pipeline.ports import Applied, Batch, nothing
from pipeline.store.application import Application
from pipeline.store.catalog import Catalog
from pipeline.store.diagnosis import meaning_of, public_text
from pipeline.store.plans import Plan, Shape
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
        return _systemic(lambda: self._run(batch, Application.rehearse))

    def lacks(self, table: str, column: str) -> ApplyFailed | None:
        """See `pipeline.ports.Store.lacks`."""
        empty = Batch(shard=-1, id="", seq=0, entries=[], final=True, failures=0)
        return _systemic(lambda: self._run(empty, lambda application: application.look_up(table, column)))

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
                    if application is not None:
                        application.close()
                    status = connection.info.transaction_status
                    if status is TransactionStatus.ACTIVE:
                        connection.close()  # a time limit of Celery, say, has ended the wait for a statement
                    elif status not in {TransactionStatus.IDLE, TransactionStatus.UNKNOWN}:
                        connection.rollback()
        except (psycopg.Error, PoolTimeout) as error:
            raise _failure(error, application) from error

    def _forget(self) -> None:
        self._catalog.forget()


def _systemic(attempt: Callable[[], None]) -> ApplyFailed | None:
    """What is wrong with the schema or the grants, as far as ``attempt`` meets it; other errors are raised."""
    try:
        attempt()
    except ApplyFailed as error:
        if error.meaning == Meaning.SYSTEMIC:
            return error
        raise
    return None


def _failure(error: Exception, application: Application | None) -> ApplyFailed:
    sqlstate = getattr(error, "sqlstate", None)
    table = application.table if application else None
    contact = Contact.NEVER if application is None else Contact.KEPT
    if application is not None and application.lost and sqlstate is None:
        contact = Contact.LOST  # without a word: an administrator's end of a session has a SQLSTATE
    return ApplyFailed(public_text(error), sqlstate, meaning_of(error), table, contact)
