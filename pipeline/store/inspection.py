"""What PostgreSQL says of itself, for ``pipeline doctor``."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

from pipeline.config import Config
from pipeline.core.change import canonical_table
from pipeline.core.health import StoreFacts, TableFacts
from pipeline.driving import run
from pipeline.errors import ApplyFailed
from pipeline.store.catalog import Catalog
from pipeline.store.queries import BlockingQueries
from pipeline.store.session import Sessions, translated
from pipeline.store.statements import migrations, statement
from pipeline.store.text import Unfit

__all__ = ["inspect_store"]


def inspect_store(sessions: Sessions, config: Config) -> StoreFacts:
    """Ask PostgreSQL; nothing is written.

    Raises:
        StoreUnavailable: it could not be reached.
    """
    with translated(), sessions.connection() as connection:
        with connection.cursor(row_factory=dict_row) as cursor:
            server = cursor.execute(statement("inspect_server")).fetchone() or {}
        readable = server.pop("readable")
        wanted = [name for name, _ in migrations()]
        if readable is None:
            missing = wanted
        elif readable:
            applied = {row[0] for row in connection.execute("SELECT name FROM pipeline.migration")}
            missing = [name for name in wanted if name not in applied]
        else:  # not ours to read; then the grants tell more
            missing = []
        return StoreFacts(
            **server,
            missing_migrations=missing,
            missing_rights=[row[0] for row in connection.execute(statement("inspect_grants"))],
            tables=[
                _table(connection, name)
                for name in dict.fromkeys(map(canonical_table, (*config.tables, *config.write_through_tables)))
            ],
        )


def _table(connection: psycopg.Connection[Any], name: str) -> TableFacts:
    try:
        table = run(Catalog().read(BlockingQueries(connection), name))
    except (ApplyFailed, Unfit) as error:
        return TableFacts(name=name, problem=error.problem)
    except psycopg.errors.InsufficientPrivilege as error:
        return TableFacts(name=name, missing_rights=[str(error).strip()])
    rights = connection.execute(statement("inspect_table_grants"), {"oid": table.oid}).fetchall()
    return TableFacts(name=name, keyed=bool(table.unique_keys), missing_rights=[row[0] for row in rights])
