"""One suite per port: whoever implements `Buffer` or `Store` adds itself to ``make_buffer`` or ``make_store``."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest

from pipeline.buffer.redis import RedisBuffer, connect
from pipeline.config import Config
from pipeline.ports import Buffer, Store
from pipeline.store.postgres import PostgresStore
from pipeline.store.schema import migrate
from pipeline.store.session import Sessions

MakeBuffer = Callable[..., Buffer]
MakeStore = Callable[..., Store]


@pytest.fixture
def make_buffer(redis_url: str) -> Iterator[MakeBuffer]:
    """Makes a buffer with one shard on an empty Redis; every call is another process' view of the same data."""
    with ExitStack() as stack:

        def make(**settings: object) -> Buffer:
            config = Config(**{"shards": 1, **settings}, redis_url=redis_url)  # type: ignore[arg-type]
            return stack.enter_context(closing(RedisBuffer(connect(config), config)))

        yield make


@pytest.fixture
def make_store(database_url: str) -> Iterator[MakeStore]:
    """Makes a store on a fresh database with a table ``views (page int, n int, note text)``."""
    with ExitStack() as stack:

        def make(**settings: object) -> Store:
            config = Config(**{"shards": 1, **settings}, database_url=database_url)  # type: ignore[arg-type]
            return PostgresStore(stack.enter_context(closing(Sessions(config))), config)

        with closing(Sessions(Config(database_url=database_url))) as sessions:
            migrate(sessions)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE views (page int PRIMARY KEY, n int, note varchar(3))")
        yield make
