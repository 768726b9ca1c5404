"""What is in Postgres, by plain SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

__all__ = ["Evidence", "collect", "traces"]

Row = Mapping[str, Any]


class Evidence(NamedTuple):
    """The application's tables and the dead letters.

    ``applied`` counts the rows of each event in ``witness`` and ``audit``, ``dead`` the dead letters of each event id.
    The other tables are by key. ``late`` are dead because a worker held them while later events were applied.
    """

    applied: Counter[str]
    dead: Counter[str]
    dead_without_id: int
    cell: Mapping[str, Row]
    profile: Mapping[str, Row]
    counter: Mapping[int, Row]
    stock: Mapping[tuple[str, int], Row]
    orders: Mapping[str, Decimal]
    item: Mapping[tuple[str, int], int]
    late: frozenset[str] = frozenset()


def collect(connection: psycopg.Connection[Any]) -> Evidence:
    """Read everything."""
    applied: Counter[str] = Counter()
    for query in (
        "SELECT event_id, count(*) FROM witness GROUP BY event_id",
        "SELECT event_id, count(*) FROM audit GROUP BY event_id",
    ):
        applied.update(dict(connection.execute(query).fetchall()))
    dead: dict[str | None, int] = dict(
        connection.execute("SELECT event_id, count(*) FROM pipeline.dead_letter GROUP BY event_id").fetchall()
    )
    with connection.cursor(row_factory=dict_row) as rows:
        return Evidence(
            applied=applied,
            dead_without_id=dead.pop(None, 0),
            dead=Counter({event: count for event, count in dead.items() if event is not None}),
            cell={row["key"]: row for row in rows.execute("SELECT key, tally, ops, last FROM cell")},
            profile={row["key"]: row for row in rows.execute("SELECT key, note, score, amount, hi, lo FROM profile")},
            counter={row["id"]: row for row in rows.execute("SELECT id, n, hi, lo FROM counter")},
            stock={
                (row["site"], row["sku"]): row for row in rows.execute("SELECT site, sku, amount, moves FROM stock")
            },
            orders=dict(connection.execute("SELECT id, total FROM orders").fetchall()),
            item={
                (order, line): quantity
                for order, line, quantity in connection.execute("SELECT order_id, line, quantity FROM item")
            },
            late=frozenset(
                event
                for (event,) in connection.execute(
                    "SELECT event_id FROM pipeline.dead_letter WHERE reason LIKE 'came back too late%'"
                )
            ),
        )


def traces(connection: psycopg.Connection[Any], event_id: str) -> dict[str, Any]:
    """What the ledger, the dead letters and the witnesses say of an event."""
    ledger = """
        SELECT shard, seq, batch_id::text, row_count, dead_count, cardinality(event_ids) AS events, applied_at::text
        FROM pipeline.batch WHERE event_ids @> ARRAY[%(id)s::text] ORDER BY applied_at
    """
    letters = """
        SELECT id, shard, batch_id::text, table_name, reason, sqlstate, attempts, dead_at::text
        FROM pipeline.dead_letter WHERE event_id = %(id)s ORDER BY id
    """
    witnesses = """
        SELECT (SELECT count(*) FROM witness WHERE event_id = %(id)s) AS witness,
               (SELECT count(*) FROM audit WHERE event_id = %(id)s) AS audit
    """
    with connection.cursor(row_factory=dict_row) as rows:
        return {
            name: rows.execute(query, {"id": event_id}).fetchall()
            for name, query in (("ledger", ledger), ("dead_letters", letters), ("witnesses", witnesses))
        }
