"""Connections to PostgreSQL: opened late, opened again after a fork, set up for bulk writing."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from pipeline.config import Config
from pipeline.core.failure import Meaning, classify
from pipeline.driving import run
from pipeline.errors import InvalidSetting, NotMigrated, StoreError, StoreUnavailable
from pipeline.store.queries import BlockingQueries, Queries

__all__ = [
    "GRACE_SECONDS",
    "POOL",
    "Deaf",
    "PatientConnection",
    "SessionSource",
    "Sessions",
    "arguments_of",
    "listening",
    "patience_of",
    "pool_is_busy",
    "prepare_session",
    "translated",
]

R = TypeVar("R")

_PLANNER: Final = ("hashjoin", "mergejoin", "seqscan", "material", "bitmapscan")
"""Ways to read a table that a bulk statement must never take: the staged rows look one by one into the target's unique
index, however large the target is and whatever its statistics say."""

_SCHEMA_MISSING: Final = frozenset({"3F000", "42P01"})

GRACE_SECONDS: Final = 5.0
"""What the way there and back may take, beyond the time that the server may take for a statement."""

POOL: Final[dict[str, Any]] = {
    "min_size": 0,
    "max_size": 8,
    "timeout": 10.0,
    "max_idle": 300.0,
    "reconnect_timeout": 1.0,
    "name": "pipeline",
}
"""What every pool of connections is made with."""

_LOOK_FOR_CLIENT_MILLISECONDS: Final = 1000
"""How often a backend that works or waits looks whether its client is still there."""


def _options(config: Config) -> str:
    milliseconds = round(config.statement_timeout_seconds * 1000)
    settings = {
        **{f"enable_{path}": "off" for path in _PLANNER},
        "jit": "off",
        "datestyle": "ISO",
        "intervalstyle": "postgres",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": 2
        * milliseconds,  # a worker that stalls must not hold its shard for ever
        "client_min_messages": "warning",
    }
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into ours, with the SQLSTATE; for statements on our own schema."""
    try:
        yield
    except PoolTimeout as error:
        raise pool_is_busy() from error
    except psycopg.Error as error:
        sqlstate = error.sqlstate
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if sqlstate in _SCHEMA_MISSING:
            raise NotMigrated(f"{text}: run `pipeline migrate`", sqlstate) from error
        if classify(sqlstate) is Meaning.OUTAGE:
            raise StoreUnavailable(f"PostgreSQL is not available: {text}", sqlstate, _answered(error)) from error
        raise StoreError(text, sqlstate) from error


def pool_is_busy() -> StoreUnavailable:
    """What a PoolTimeout of ours means: `SessionSource.queries` has seen that the server is well."""
    return StoreUnavailable("all connections of this process' pool to PostgreSQL are busy")


def _answered(error: Exception) -> bool:
    """Whether a server asked for a password before it refused; libpq gives no SQLSTATE of a failed connection."""
    failed = error.pgconn if isinstance(error, psycopg.OperationalError) else None
    return failed is not None and failed.status != ConnStatus.OK and bool(failed.used_password or failed.needs_password)


def _check_url(url: str) -> None:
    """Refuse what libpq would not understand here: its own message may quote a password."""
    try:
        ports = str(conninfo_to_dict(url).get("port") or "")
    except (psycopg.Error, UnicodeError):
        ports = "?"
    if not all(port.isdecimal() or not port for port in ports.split(",")):
        raise InvalidSetting(
            "PIPELINE_DATABASE_URL",
            "not a connection string of libpq; write postgresql://user:password@host:5432/database "
            "(other characters than letters and digits in the password as %XX)",
        ) from None


def arguments_of(config: Config) -> dict[str, Any]:
    """What every connection is opened with, besides the URL.

    Raises:
        InvalidSetting: the database URL cannot be read.
    """
    _check_url(config.database_url)
    return {
        "autocommit": True,
        "client_encoding": "utf8",  # COPY data are; the default is the encoding of the database
        # after the URL's own, so that a search_path given there stays
        "options": f"{conninfo_to_dict(config.database_url).get('options') or ''} {_options(config)}".strip(),
        "connect_timeout": 5,
        "application_name": "celery-write-behind",
        "keepalives_idle": 30,
        "tcp_user_timeout": round(config.lease_seconds * 800),  # milliseconds: notice before the lease is over
    }


def patience_of(config: Config) -> float:
    """Seconds of silence after which a server is given up that may work on a statement."""
    return config.statement_timeout_seconds + GRACE_SECONDS


class Deaf(psycopg.OperationalError):
    """The server's end of a connection holds it open, and was not heard of in the time that a statement may take."""


class PatientConnection(psycopg.Connection[Any]):
    """A connection whose patience has an end: it closes itself over a server that is silent for too long.

    The server keeps ``statement_timeout`` itself, so that a silence beyond it means that something between holds the
    connection open and passes nothing on, or that the backend is stopped. TCP does not notice, as both kernels answer.

    Every byte that goes or comes begins the time anew: a batch may have any number of statements, and any size. It
    costs three microseconds per wait, and neither a thread nor a timer: psycopg looks up ten times a second anyway.
    """

    patience_seconds: float = GRACE_SECONDS

    def wait(self, gen: PQGen[R], *arguments: Any, **options: Any) -> R:
        """See `psycopg.Connection.wait`; raises OperationalError if nothing comes for ``patience_seconds``."""
        try:
            return super().wait(listening(gen, self.patience_seconds), *arguments, **options)
        except Deaf:
            self.close()  # it is useless, and nothing more must wait for it: a ROLLBACK, say
            raise


def listening(gen: PQGen[R], patience_seconds: float) -> PQGen[R]:
    """What psycopg waits for, until nothing comes for ``patience_seconds``; raises `Deaf`."""
    try:
        wanted = next(gen)
        heard = monotonic()
        while True:
            ready = yield wanted
            if ready:
                heard = monotonic()
            elif monotonic() - heard > patience_seconds:
                raise Deaf(f"PostgreSQL was not heard of for {patience_seconds:g} seconds, connection closed")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


async def prepare_session(queries: Queries) -> None:
    """Set up a new connection with what cannot be given as a start option."""
    # Redis forgets a batch when it is committed, so a commit must be on disk; a stricter setting is left alone
    if await queries.row("SHOW synchronous_commit") == ("off",):
        await queries.run("SET synchronous_commit = on")
    # A worker that dies while its backend waits or works must not leave its locks behind until that is through. It is
    # no start option: a server that does not know it, or is on a platform that cannot do it, would refuse us.
    with suppress(psycopg.errors.UndefinedObject, psycopg.errors.InvalidParameterValue):
        await queries.run(f"SET client_connection_check_interval = {_LOOK_FOR_CLIENT_MILLISECONDS}")


def _check(connection: PatientConnection) -> None:
    """Whether a connection of the pool is still good; an empty query has no work to do, and needs no patience."""
    patience, connection.patience_seconds = connection.patience_seconds, GRACE_SECONDS
    try:
        ConnectionPool.check_connection(connection)
    finally:
        connection.patience_seconds = patience


class SessionSource(Protocol):
    """Where connections to PostgreSQL come from; ``kind`` is a class of them all."""

    kind: type[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]]

    def queries(self) -> AbstractAsyncContextManager[Queries]:
        """Lend a connection. Raises (on entering) psycopg.OperationalError or `psycopg_pool.PoolTimeout`."""
        ...


class Sessions:
    """A small pool of connections in autocommit mode. Safe across threads and forks: a child opens its own."""

    kind: type[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]] = psycopg.Connection

    def __init__(self, config: Config) -> None:
        """No connection is made.

        Raises:
            InvalidSetting: the database URL cannot be read.
        """
        self._url = config.database_url
        self._arguments = arguments_of(config)
        self._patience_seconds = patience_of(config)
        self._lock = threading.Lock()
        self._pool: ConnectionPool[PatientConnection] | None = None
        self._pid = 0
        self._doubtful = True  # no connection was made yet, or the last attempt to get one failed

    @contextmanager
    def connection(self) -> Iterator[PatientConnection]:
        """Lend a connection; wait at most ten seconds for one, and as long again to see that nobody answers.

        Raises (on entering) psycopg.OperationalError or `psycopg_pool.PoolTimeout`.
        """
        pool = self._pool
        if pool is None or self._pid != os.getpid():
            pool = self._open()
        if self._doubtful:
            self._probe()
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(pool.connection())
            except PoolTimeout:
                self._probe()
                raise  # the server is well: all connections are in use
            yield connection

    @asynccontextmanager
    async def queries(self) -> AsyncIterator[Queries]:
        """See `SessionSource.queries`."""
        with self.connection() as connection:
            yield BlockingQueries(connection)

    def _probe(self) -> None:
        """Connect once without the pool: it waits its full time for a server that is away, and does not say why."""
        self._doubtful = True
        psycopg.connect(self._url, **self._arguments).close()
        self._doubtful = False

    def reachable(self) -> bool:
        """Whether a connection can be made now; takes five seconds to say no to a server that does not answer."""
        try:
            self._probe()
        except psycopg.Error:
            return False
        return True

    def _configure(self, connection: PatientConnection) -> None:
        run(prepare_session(BlockingQueries(connection)))
        connection.patience_seconds = self._patience_seconds

    def _open(self) -> ConnectionPool[PatientConnection]:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                # an inherited pool belongs to the parent: its sockets must not be closed or used here
                self._pool = ConnectionPool(
                    self._url,
                    connection_class=PatientConnection,
                    kwargs=self._arguments,
                    check=_check,
                    configure=self._configure,
                    open=True,
                    **POOL,
                )
                self._pid = os.getpid()
                self._doubtful = True
            return self._pool

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        with self._lock:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None
