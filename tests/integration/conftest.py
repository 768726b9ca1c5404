"""A scene for each test: an empty Redis, and a database in which ``pipeline migrate`` has run."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pipeline import Config, Pipeline
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.store import session
from tests.integration.scene import Scene
from tests.twin import Twin

MakeValkey = Callable[..., Valkey]
MakePipeline = Callable[..., Pipeline]
Aside = Callable[..., Future[object]]


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres, new_database: Callable[[], str]) -> str:
    """A database with the schema ``pipeline``: copying it is quicker than migrating each test's own."""
    name = new_database()
    with Pipeline(Config(database_url=postgres.url_of(name))) as pipeline:
        pipeline.migrate()
    return name


@pytest.fixture
def migrated_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """A migrated database that only this test uses."""
    if not postgres.running:  # a test that failed half-way hurts only itself
        postgres.start()
    name = f"{migrated_template}_copy"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(drop)
        connection.execute(copy.format(sql.Identifier(name), sql.Identifier(migrated_template)))
    yield postgres.url_of(name)
    if not postgres.running:
        postgres.start()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(drop)


@pytest.fixture
def pipeline_type(request: pytest.FixtureRequest) -> type[Pipeline]:
    """What a test's pipelines are. A module that is about the methods of applications asks for `both_types`."""
    return {"blocking": Pipeline, "awaiting": Twin}[getattr(request, "param", "blocking")]


both_types = pytest.mark.parametrize("pipeline_type", ["blocking", "awaiting"], indirect=True)


@pytest.fixture
def scene(redis_url: str, migrated_url: str, pipeline_type: type[Pipeline]) -> Iterator[Scene]:
    """Redis and a migrated database, both for this test alone."""
    scene = Scene(redis_url, migrated_url, pipeline_type)
    yield scene
    scene.close()


@pytest.fixture
def redis_scene(redis_url: str) -> Iterator[Scene]:
    """Redis for this test alone, and no database: for what happens before a flush."""
    scene = Scene(redis_url, "postgresql://nowhere.invalid/none")
    yield scene
    scene.close()


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second, not ten, is how long connections are waited for; and not five how long a server may be silent."""
    monkeypatch.setitem(session.POOL, "timeout", 0.5)
    monkeypatch.setattr(session, "GRACE_SECONDS", 0.5)


@pytest.fixture
def make_valkey(tmp_path: Path) -> Iterator[MakeValkey]:
    """Starts a Valkey of this test's own, with the given lines of configuration."""
    with ExitStack() as stack:
        started: list[Valkey] = []

        def start(**lines: Any) -> Valkey:
            config: Mapping[str, Any] = {name.replace("_", "-"): value for name, value in lines.items()}
            started.append(server := Valkey(tmp_path / f"valkey-{len(started)}", config=config))
            return stack.enter_context(server)

        yield start


@pytest.fixture
def pipeline_on(pipeline_type: type[Pipeline]) -> Iterator[Callable[..., Pipeline]]:
    """Makes a pipeline with one shard on a Valkey."""
    with ExitStack() as stack:

        def make(server: Valkey, **settings: Any) -> Pipeline:
            return stack.enter_context(pipeline_type(Config(**{"shards": 1, **settings}, redis_url=server.url)))

        yield make


@pytest.fixture
def aside() -> Iterator[Aside]:
    """Does something in a thread of its own."""
    with ThreadPoolExecutor(16) as threads:
        yield threads.submit
