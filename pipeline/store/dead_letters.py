"""Look at dead letters and mark them; and what the ledger says of every shard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg.rows import dict_row

from pipeline.config import Config
from pipeline.ports import DeadLetter, Extent, ShardLedger
from pipeline.store.session import Sessions, translated
from pipeline.store.statements import statement

__all__ = ["PostgresDeadLetters", "PostgresLedger"]

_LAST: Final = 2**63 - 1


class PostgresDeadLetters:
    """`pipeline.ports.DeadLetters` on PostgreSQL."""

    def __init__(self, sessions: Sessions, config: Config) -> None:
        self._sessions = sessions
        self._namespace = config.namespace

    def page(
        self, *, status: str | None = "dead", table: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """Up to ``limit`` dead letters with an id below ``before``, newest first."""
        return self._fetch(
            "list_dead_letters",
            {"status": status, "table_name": table, "before": _LAST if before is None else before, "limit": limit},
        )

    def get(self, ids: Sequence[int]) -> list[DeadLetter]:
        """The dead letters with these ids, in order of id; ids that do not exist are left out."""
        return self._fetch("get_dead_letters", {"ids": list(ids)})

    def extent(self, table: str | None = None) -> Extent:
        """How many letters (of ``table``) are dead now, and up to which id."""
        with (
            translated(),
            self._sessions.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            parameters = {"namespace": self._namespace, "table_name": table}
            row = cursor.execute(statement("extent_of_dead_letters"), parameters).fetchone()
        return Extent(**(row or {"count": 0, "last": 0}))

    def oldest(self, *, after: int, last: int, table: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """Up to ``limit`` letters that are dead, with ids in (``after``, ``last``], oldest first."""
        return self._fetch("oldest_dead_letters", {"after": after, "last": last, "table_name": table, "limit": limit})

    def mark_replayed(self, letter: int, *, event_id: str, forced: bool, actor: str) -> bool:
        """Note that ``letter`` was written again as ``event_id``; ``False`` if it was not dead any more."""
        with translated(), self._sessions.connection() as connection:
            cursor = connection.execute(
                statement("mark_replayed"),
                {"namespace": self._namespace, "id": letter, "event_id": event_id, "forced": forced, "actor": actor},
            )
            return bool(cursor.rowcount)

    def _fetch(self, name: str, parameters: dict[str, Any]) -> list[DeadLetter]:
        with (
            translated(),
            self._sessions.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(statement(name), {"namespace": self._namespace, **parameters}).fetchall()
        return [_letter(row) for row in rows]


def _letter(row: dict[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        event_id=row["event_id"],
        shard=row["shard"],
        table=row["table_name"],
        status=row["status"],
        reason=row["reason"],
        sqlstate=row["sqlstate"],
        attempts=row["attempts"],
        accepted_ms=row["accepted_ms"],
        dead_ms=row["dead_ms"],
        message=bytes(row["message"]),
    )


class PostgresLedger:
    """`pipeline.ports.Ledger` on PostgreSQL."""

    def __init__(self, sessions: Sessions, config: Config) -> None:
        self._sessions = sessions
        self._namespace = config.namespace
        self._retention_seconds = config.ledger_retention_seconds

    def shards(self) -> list[ShardLedger]:
        """Every shard that has ever applied a batch."""
        with (
            translated(),
            self._sessions.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(statement("shard_ledgers"), {"namespace": self._namespace}).fetchall()
        return [ShardLedger(**row) for row in rows]

    def prune(self) -> int:
        """Forget batches that are older than the retention; the number of batches forgotten."""
        with translated(), self._sessions.connection() as connection:
            cursor = connection.execute(
                statement("prune_ledger"),
                {"namespace": self._namespace, "retention_seconds": self._retention_seconds},
            )
            forgotten: int = cursor.rowcount
            return forgotten
