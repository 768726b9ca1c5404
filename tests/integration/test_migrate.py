"""`pipeline migrate`: idempotent, concurrent, and careful with what is there."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import NotMigrated, StoreError, StoreUnavailable
from pipeline.store.statements import migrations
from tests.integration.scene import Scene, drain

NAMES = [name for name, _ in migrations()]
OBJECTS = (
    "SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
    " WHERE c.relnamespace = 'pipeline'::regnamespace AND a.attnum > 0 ORDER BY 1, 3"
)


@pytest.fixture
def bare(redis_url: str, database_url: str) -> Iterator[Scene]:
    """A database in which nothing has run."""
    scene = Scene(redis_url, database_url)
    yield scene
    scene.close()


def test_the_first_migration_makes_the_schema_and_the_second_does_nothing(bare: Scene) -> None:
    pipeline = bare.pipeline()
    assert pipeline.migrate() == NAMES
    objects = bare.sql(OBJECTS)
    assert {name for name, kind, *_ in objects if kind == "r"} == {
        "batch",
        "dead_letter",
        "migration",
        "replay",
        "shard",
    }
    assert pipeline.migrate() == []
    assert bare.sql(OBJECTS) == objects
    assert [name for (name,) in bare.sql("SELECT name FROM pipeline.migration ORDER BY name")] == NAMES


def test_ids_in_the_ledger_are_not_compressed(bare: Scene) -> None:
    bare.pipeline().migrate()
    bare.sql(
        "INSERT INTO pipeline.batch (namespace, shard, seq, batch_id, event_ids, row_count, dead_count) SELECT"
        " 'n', 0, 1, gen_random_uuid(), array_agg(repeat('a', 36)), 0, 0 FROM generate_series(1, 1000) RETURNING seq"
    )
    assert bare.sql("SELECT pg_column_compression(event_ids) FROM pipeline.batch") == [(None,)]


def test_processes_that_migrate_at_once_do_it_once(bare: Scene) -> None:
    pipelines = [bare.pipeline() for _ in range(6)]
    with ThreadPoolExecutor(len(pipelines)) as threads:
        applied = [name for names in threads.map(lambda pipeline: pipeline.migrate(), pipelines) for name in names]
    assert sorted(applied) == NAMES


def test_a_migration_keeps_what_is_there(bare: Scene) -> None:
    pipeline = bare.pipeline()
    pipeline.migrate()
    bare.sql("CREATE TABLE t (id int PRIMARY KEY, word varchar(3))")
    pipeline.write("t", {"id": 1}, set={"word": "too long"})
    pipeline.write("t", {"id": 2})
    drain(pipeline)
    before = [bare.sql(f"SELECT * FROM pipeline.{table}") for table in ("shard", "batch", "dead_letter")]
    assert bare.pipeline().migrate() == []
    assert [bare.sql(f"SELECT * FROM pipeline.{table}") for table in ("shard", "batch", "dead_letter")] == before
    assert all(before)


def test_nothing_depends_on_the_search_path(bare: Scene) -> None:
    database = bare.database_url.rpartition("/")[2]
    bare.sql("CREATE SCHEMA elsewhere")
    bare.sql(f"ALTER DATABASE {database} SET search_path = elsewhere")
    pipeline = bare.pipeline()
    pipeline.migrate()
    bare.sql("CREATE TABLE public.t (id int PRIMARY KEY)")
    bare.sql("CREATE TABLE elsewhere.shard (x int)")
    pipeline.write("public.t", {"id": 1})
    assert drain(pipeline).rows == 1
    assert pipeline.status().shards[0].applied_batches == 1


@pytest.mark.parametrize("what", ["status", "dead letters", "prune"])
def test_before_a_migration_everything_says_what_to_do(bare: Scene, what: str) -> None:
    pipeline = bare.pipeline()
    uses: dict[str, Callable[[], object]] = {
        "status": pipeline.status,
        "dead letters": pipeline.dead_letters.page,
        "prune": pipeline.ledger.prune,
    }
    with pytest.raises(NotMigrated, match="pipeline migrate"):
        uses[what]()


def test_writes_need_no_migration(bare: Scene) -> None:
    assert bare.pipeline().write("t", {"id": 1}).seq == 1


def test_a_role_without_rights_is_told_so(bare: Scene) -> None:
    bare.sql("DROP ROLE IF EXISTS nobody_here")
    bare.sql("CREATE ROLE nobody_here LOGIN PASSWORD 'x'")
    address = bare.database_url.partition("@")[2]
    with pytest.raises(StoreError, match="permission denied") as caught:
        bare.pipeline(database_url=f"postgresql://nobody_here:x@{address}").migrate()
    assert caught.value.sqlstate == "42501"
    bare.sql("DROP ROLE nobody_here")


def test_a_server_that_is_not_there_is_unavailable(bare: Scene) -> None:
    with pytest.raises(StoreUnavailable):
        bare.pipeline(database_url="postgresql://127.0.0.1:1/none").migrate()


def test_a_migration_that_dies_half_way_is_made_up_for(bare: Scene) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DIES, bare.database_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert died.returncode == 9, died.stderr
    assert bare.pipeline().migrate() == NAMES


# The first migration has run and is not committed.
DIES = """
import os, sys
import psycopg
from pipeline.store.statements import migrations

connection = psycopg.connect(sys.argv[1])
connection.execute("CREATE SCHEMA pipeline")
connection.commit()
connection.execute(migrations()[0][1])
os._exit(9)
"""
