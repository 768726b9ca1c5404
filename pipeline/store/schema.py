"""Create and upgrade the schema ``pipeline``."""

from __future__ import annotations

from typing import Final

import psycopg

from pipeline.errors import StoreError
from pipeline.store.session import Sessions, translated
from pipeline.store.statements import migrations

__all__ = ["migrate"]

_LOCK: Final = 0x7069_7065_6C69_6E65  # "pipeline" in ASCII: the advisory lock that keeps two migrations apart
OLDEST_SERVER: Final = 150_000
"""PostgreSQL 15, the first with MERGE."""


def migrate(sessions: Sessions) -> list[str]:
    """Apply the migrations that are missing, each in a transaction of its own, and return their names.

    Safe to run at any time and from several processes at once.

    Raises:
        StoreUnavailable: PostgreSQL could not be reached.
        StoreError: the server is older than PostgreSQL 15, or the role may not create the schema.
    """
    with translated(), sessions.connection() as connection:
        version = connection.info.server_version
        if version < OLDEST_SERVER:
            raise StoreError(f"PostgreSQL {version // 10_000} is too old: MERGE needs 15 or newer")
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            return _apply_missing(connection)
        finally:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def _apply_missing(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    # asked for only where it is missing: IF NOT EXISTS wants the right to create first, and looks then
    if connection.execute("SELECT to_regnamespace('pipeline')").fetchone() == (None,):
        connection.execute("CREATE SCHEMA pipeline")
    if connection.execute("SELECT to_regclass('pipeline.migration')").fetchone() == (None,):
        connection.execute(
            "CREATE TABLE pipeline.migration (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    applied = {row[0] for row in connection.execute("SELECT name FROM pipeline.migration")}
    missing = [(name, sql) for name, sql in migrations() if name not in applied]
    for name, sql in missing:
        with connection.transaction():
            connection.execute(sql)
            connection.execute("INSERT INTO pipeline.migration (name) VALUES (%s)", (name,))
    return [name for name, _ in missing]
