"""Fixtures for every test: real servers for the session; a fresh database and an empty Redis for each test."""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from hypothesis import settings
from psycopg import sql

from pipeline.contrib.embedded import Postgres, Servers, Valkey

# Started in the background (nohup, a shell's &), tests inherit that these are ignored, and so would all their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# On a busy CI machine, slow is not wrong; but what fails there must fail here again.
# Few examples, for quick runs; `scripts/test --hypothesis-profile=thorough tests/unit` takes minutes.
settings.register_profile("ci", deadline=None, max_examples=12, derandomize=True, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=12)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has a random name
ENOUGH_BYTES = 4 * 1024**3

FEWER_ROUNDS = 16_00_00
"""The version of Postgres from which on passwords may be hashed in fewer rounds."""


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    # Nothing here survives a power cut, and no test makes one: a killed server keeps what it gave to the kernel.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", _quickest_place())
        servers = Servers(postgres_settings={"fsync": "off"})
    with servers as running:
        _cheapen_logins(running.postgres)
        yield running


@pytest.fixture(scope="session")
def valkey(servers: Servers) -> Valkey:
    """The session's Valkey. A test that stops it starts it again."""
    return servers.valkey


@pytest.fixture(scope="session")
def postgres(servers: Servers) -> Postgres:
    """The session's Postgres. A test that stops it starts it again."""
    return servers.postgres


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """Database 0 of the session's Valkey, empty and without scripts: the test's Redis and Celery broker."""
    if not valkey.running:  # a test that failed half-way hurts only itself
        valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        client.script_flush()
    return valkey.url


@pytest.fixture(scope="session")
def template_database() -> str:
    """What each test's database is a copy of. Override it for a directory of tests that share a schema."""
    return "template1"


@pytest.fixture(scope="session")
def new_database(postgres: Postgres, template_database: str) -> Callable[[], str]:
    """Makes a database and returns its name."""
    numbers = itertools.count(1)

    def create() -> str:
        name = f"test_{next(numbers)}"
        _administer(
            postgres,
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template_database)
            ),
        )
        return name

    return create


@pytest.fixture
def database_url(postgres: Postgres, new_database: Callable[[], str]) -> Iterator[str]:
    """A database that only this test uses; it is dropped afterwards, whoever is still connected."""
    name = new_database()
    yield postgres.url_of(name)
    _administer(postgres, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _quickest_place() -> str | None:
    """In memory if there is enough: each test's database is three hundred files, a tenth of a second on a disk."""
    try:
        return str(MEMORY) if shutil.disk_usage(MEMORY).free > ENOUGH_BYTES else None
    except OSError:
        return None


def _cheapen_logins(postgres: Postgres) -> None:
    """Store the password with one round of hashing instead of 4096: connecting takes half the time."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        if connection.info.server_version >= FEWER_ROUNDS:
            connection.execute("SET scram_iterations = 1")
            connection.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(postgres.password))


def _administer(postgres: Postgres, statement: sql.Composed) -> None:
    if not postgres.running:  # a test that failed half-way hurts only itself
        postgres.start()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(statement)
