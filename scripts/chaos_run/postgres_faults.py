"""What can happen to Postgres and the network before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from signal import SIGKILL
from typing import Any, Final

import psycopg
from psycopg import sql

from scripts.chaos_run.lanes import Turn
from scripts.chaos_run.network_faults import NetworkFaults
from scripts.chaos_run.world import World

__all__ = ["POSTGRES_FAULTS", "PostgresFaults"]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "witness": ("event_id",),
    "audit": ("payload",),
    "cell": ("tally", "ops", "last"),
    "profile": ("note", "score", "amount", "hi", "lo"),
    "counter": ("n", "hi", "lo"),
    "stock": ("amount", "moves"),
    "orders": ("total",),
    "item": ("quantity",),
}
"""What events write, besides keys."""
TABLES: Final = tuple(COLUMNS)

TRIGGERS: Final = {
    "disk_full": "BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END",
    "too_slow": "BEGIN PERFORM pg_sleep(3); RETURN NULL; END",  # longer than PIPELINE_STATEMENT_TIMEOUT
    "serialization": "BEGIN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END",
}
"""Bodies of triggers that make writing a table fail as it does when the server is in trouble."""


class PostgresFaults(NetworkFaults):
    """Each method is one fault, from begin to end."""

    def __init__(self, world: World) -> None:
        super().__init__(world.postgres_proxy, slowest_seconds=0.05)
        self._world = world
        self._server = world.postgres

    def stopped_fast(self, turn: Turn) -> None:
        """Shut down in order, and started again."""
        self._server.stop("fast")
        turn.last(0.0, 2.0)
        self._server.start()

    def stopped_immediately(self, turn: Turn) -> None:
        """Ended at once; it recovers when it starts."""
        self._server.stop("immediate")
        turn.last(0.0, 2.0)
        self._server.start()

    def killed(self, turn: Turn) -> None:
        """SIGKILL to all of it."""
        self._server.kill()
        turn.last(0.0, 1.0)
        self._server.start()

    def sessions_terminated(self, turn: Turn) -> None:
        """Every session but ours is ended, several times."""
        with self._world.database() as connection:
            for _ in range(turn.random.randint(1, 5)):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                turn.last(0.05, 0.5)

    def backend_killed(self, turn: Turn) -> None:
        """One backend of the pipeline crashes: the server ends all of them and recovers."""
        with self._world.database() as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'celery-write-behind' ORDER BY random()"
            ).fetchone()
        if row is not None:
            turn.note(pid=row[0])
            with suppress(ProcessLookupError):
                os.kill(row[0], SIGKILL)
        turn.last(0.3, 1.0)

    def table_locked(self, turn: Turn) -> None:
        """Somebody holds a table, perhaps for longer than a statement may take."""
        table = turn.random.choice(TABLES)
        turn.note(table=table)
        with self._world.database() as connection, connection.transaction():
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
            turn.last(0.5, 5.0)

    def ledger_locked(self, turn: Turn) -> None:
        """Somebody holds the rows that fence the shards."""
        with self._world.database() as connection, connection.transaction():
            connection.execute("SELECT 1 FROM pipeline.shard FOR UPDATE")
            turn.last(0.3, 3.0)

    def statement_timeout(self, turn: Turn) -> None:
        """Writing a table takes longer than a statement may."""
        with self._trigger(turn, "too_slow"):
            turn.last(1.0, 4.0)

    def disk_full(self, turn: Turn) -> None:
        """Writing a table fails as on a full disk."""
        with self._trigger(turn, "disk_full"):
            turn.last(0.5, 3.0)

    def serialization(self, turn: Turn) -> None:
        """Writing a table fails as when another transaction was in the way."""
        with self._trigger(turn, "serialization"):
            turn.last(0.3, 1.5)

    def column_missing(self, turn: Turn) -> None:
        """A column is not there, as when a deployment is ahead of its migration."""
        table = turn.random.choice(TABLES)
        column = turn.random.choice(COLUMNS[table])
        turn.note(table=table, column=column)
        self._rename(table, column, f"{column}_away")
        try:
            turn.last(0.3, 4.0)
        finally:
            self._rename(table, f"{column}_away", column)

    @contextmanager
    def _trigger(self, turn: Turn, name: str) -> Iterator[None]:
        table = turn.random.choice(TABLES)
        turn.note(table=table)
        with self._world.database() as connection:
            self._create(connection, name, table)
        try:
            yield
        finally:
            with self._world.database() as connection:
                connection.execute(sql.SQL("DROP TRIGGER {} ON {}").format(sql.Identifier(name), sql.Identifier(table)))

    def _rename(self, table: str, column: str, name: str) -> None:
        rename = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
        with self._world.database() as connection:
            connection.execute(rename.format(*map(sql.Identifier, (table, column, name))))

    def _create(self, connection: psycopg.Connection[Any], name: str, table: str) -> None:
        function = sql.SQL("CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS {}").format(
            sql.Identifier(name), sql.Literal(TRIGGERS[name])
        )
        trigger = sql.SQL(
            "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()"
        ).format(sql.Identifier(name), sql.Identifier(table), sql.Identifier(name))
        connection.execute(function)
        connection.execute(trigger)


POSTGRES_FAULTS: Final[Mapping[str, Callable[[PostgresFaults, Turn], None]]] = {
    "postgres_stopped_fast": PostgresFaults.stopped_fast,
    "postgres_stopped_immediately": PostgresFaults.stopped_immediately,
    "postgres_killed": PostgresFaults.killed,
    "postgres_sessions_terminated": PostgresFaults.sessions_terminated,
    "postgres_backend_killed": PostgresFaults.backend_killed,
    "postgres_table_locked": PostgresFaults.table_locked,
    "postgres_ledger_locked": PostgresFaults.ledger_locked,
    "postgres_statement_timeout": PostgresFaults.statement_timeout,
    "postgres_disk_full": PostgresFaults.disk_full,
    "postgres_serialization": PostgresFaults.serialization,
    "postgres_column_missing": PostgresFaults.column_missing,
    "postgres_cut": PostgresFaults.cut,
    "postgres_connections_broken": PostgresFaults.connections_broken,
    "postgres_deaf": PostgresFaults.deaf,
    "postgres_slow": PostgresFaults.slow,
}
"""By name."""
