"""For the tests of rows that are taken for new: a pipeline that does so after one, and a look at what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline import Change, Pipeline
from pipeline.store import novelty
from tests.integration.scene import Scene, dead, drain

EAGER = 1
"""Rows that must have been new."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "ROWS_FIRST", EAGER)


@contextmanager
def looks(scene: Scene, table: str = "t") -> Iterator[list[int]]:
    """How often rows were looked for in the block: only a statement that may update them calls the trigger."""
    scene.sql("CREATE SEQUENCE IF NOT EXISTS looks")
    scene.sql(
        "CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM nextval('looks'); RETURN NULL; END $$"
    )
    scene.sql(f"CREATE TRIGGER look BEFORE UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION look()")
    scene.sql("SELECT setval('looks', 1, false)")
    found: list[int] = []
    yield found
    ((last, called),) = scene.sql("SELECT last_value, is_called FROM looks")
    found.append(last if called else 0)
    scene.sql(f"DROP TRIGGER look ON {table}")


def put(pipeline: Pipeline, *numbers: int, table: str = "t", **values: Any) -> None:
    """Set the rows ``numbers``, all in one batch, to ``values``."""
    pipeline.write_many(Change(table, {"id": number}, set=values) for number in numbers)
    drain(pipeline)
    assert dead(pipeline) == []


def experienced(scene: Scene) -> Pipeline:
    """A pipeline to which all rows of the table were new so far: those of a batch that it could count."""
    pipeline = scene.pipeline()
    for number in (8, 9):
        put(pipeline, number, n=number)
    scene.sql("DELETE FROM t")
    return pipeline
