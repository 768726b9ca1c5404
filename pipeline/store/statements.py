"""The SQL files beside this package, by name: one statement each, parameters named, nothing ever formatted in."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["migrations", "statement"]


@cache
def statement(name: str) -> bytes:
    """The statement in ``sql/<name>.sql``; bytes, which psycopg's typing takes as a query that is no literal."""
    return (files("pipeline.store") / "sql" / f"{name}.sql").read_bytes()


@cache
def migrations() -> tuple[tuple[str, bytes], ...]:
    """(name, SQL) of every migration, in order."""
    directory = files("pipeline.store") / "migrations"
    found = [
        (entry.name.removesuffix(".sql"), entry.read_bytes())
        for entry in directory.iterdir()
        if entry.name.endswith(".sql")
    ]
    return tuple(sorted(found))
