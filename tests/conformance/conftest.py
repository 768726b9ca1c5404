"""One suite per port: whoever implements `Buffer` or `Store` adds itself to ``make_buffer`` or ``make_store``."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest

from pipeline.config import Config
from pipeline.ports import Store
from pipeline.store.postgres import PostgresStore
from pipeline.store.schema import migrate
from pipeline.store.session import Sessions
from tests.conformance.whole_buffer import WholeBuffer
from tests.driving import BLOCKING, Way, awaiting

MakeBuffer = Callable[..., WholeBuffer]
MakeStore = Callable[..., Store]


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """How coroutines are done. A module of a suite that is for coroutines asks for `both_ways`."""
    if getattr(request, "param", "blocking") == "blocking":
        yield BLOCKING
    else:
        with awaiting() as way:
            yield way


both_ways = pytest.mark.parametrize("way", ["blocking", "awaiting"], indirect=True)


@pytest.fixture
def make_buffer(redis_url: str, way: Way) -> Iterator[MakeBuffer]:
    """Makes a buffer with one shard on an empty Redis; every call is another process' view of the same data."""
    with ExitStack() as stack:

        def make(**settings: object) -> WholeBuffer:
            config = Config(**{"shards": 1, **settings}, redis_url=redis_url)  # type: ignore[arg-type]
            return stack.enter_context(closing(WholeBuffer(config, way)))

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
