"""A server that holds connections open and answers nothing any more costs a worker a bounded time, and no event."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from pipeline import Pipeline
from pipeline.errors import ApplyFailed
from pipeline.flush import End
from pipeline.ports import Batch
from pipeline.store.session import Sessions
from scripts.chaos_run.proxy import Proxy
from tests.integration.scene import Scene, dead, drain, eventually

IMPATIENT = {"statement_timeout_seconds": 0.1}
VIEWS = "CREATE TABLE views (page int PRIMARY KEY, n int)"


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    between = Proxy(urlsplit(scene.database_url).port or 0)
    between.start()
    yield between
    between.stop()


def through(scene: Scene, proxy: Proxy) -> str:
    return scene.database_url.replace(f":{urlsplit(scene.database_url).port}/", f":{proxy.port}/")


@pytest.fixture
def pipeline(scene: Scene, proxy: Proxy) -> Iterator[Pipeline]:
    """A pipeline that has flushed through the proxy, and has a connection open."""
    scene.sql(VIEWS)
    with Pipeline(scene.config(**{**IMPATIENT, "database_url": through(scene, proxy)})) as opened:
        opened.write("views", {"page": 1}, add={"n": 1})
        drain(opened)
        yield opened


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("short_patience")
def test_a_connection_that_passes_nothing_on_ends_the_flush_and_blames_nobody(
    scene: Scene, proxy: Proxy, pipeline: Pipeline
) -> None:
    pipeline.write("views", {"page": 1}, add={"n": 1})
    proxy.deafen(replies_only=False)
    report = pipeline.flush_shard(0)
    assert report.end is End.FAILED, report
    proxy.heal()
    eventually(lambda: pipeline.flush_shard(0).events, "it rests for ever")
    assert scene.sql("SELECT * FROM views") == [(1, 2)]
    assert dead(pipeline) == []


@pytest.mark.timeout(90)
@pytest.mark.usefixtures("short_patience")
def test_a_server_that_falls_silent_over_a_batch_is_no_death_of_the_batch(
    scene: Scene, proxy: Proxy, pipeline: Pipeline
) -> None:
    store = scene.store(**{**IMPATIENT, "database_url": through(scene, proxy)})
    batch = Batch(shard=5, id="00000000-0000-0000-0000-000000000001", seq=1, entries=[], final=False, failures=0)

    def fall_silent() -> None:
        proxy.deafen(replies_only=True)

    with pytest.raises(ApplyFailed, match="not heard of") as caught:
        store.apply(batch, fall_silent)
    assert (caught.value.meaning, caught.value.contact) == ("outage", "kept")
    proxy.heal()
    scene.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'celery-write-behind'")
    assert store.apply(batch).seq == 1
    assert pipeline.status().healthy


@pytest.mark.timeout(60)
def test_a_backend_that_is_stopped_ends_the_wait_for_it(scene: Scene) -> None:
    sessions = Sessions(scene.config(**IMPATIENT))
    with sessions.connection() as connection:
        connection.patience_seconds = 0.3
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.OperationalError, match="not heard of"):
                connection.execute("SELECT 1")
        finally:
            os.kill(backend, signal.SIGCONT)
        assert connection.closed
    with sessions.connection() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    sessions.close()


def test_a_long_batch_of_statements_that_each_end_in_time_is_not_disturbed(scene: Scene) -> None:
    sessions = Sessions(scene.config())
    before = threading.active_count()
    with sessions.connection() as connection:
        connection.patience_seconds = 0.4
        began = time.monotonic()
        with connection.transaction():
            connection.execute("CREATE TEMPORARY TABLE t (n int)")
            while time.monotonic() - began < 3 * connection.patience_seconds:
                connection.execute("INSERT INTO t SELECT 1 FROM pg_sleep(0.1)")
                with connection.cursor().copy("COPY t FROM STDIN") as copy:
                    copy.write("2\n" * 1000)
        assert connection.execute("SELECT count(*) > 2000 FROM t").fetchone() == (True,)
    sessions.close()
    assert threading.active_count() == before


def test_a_worker_that_dies_while_its_backend_waits_gives_up_its_locks_soon(scene: Scene) -> None:
    scene.sql(VIEWS)
    sessions = Sessions(scene.config())
    with scene.connect() as blocker, sessions.connection() as connection:
        blocker.execute("BEGIN; LOCK TABLE views")
        connection.execute("BEGIN; CREATE TABLE held (n int)")
        backend = connection.info.backend_pid
        connection.pgconn.send_query(b"LOCK TABLE views")
        connection.pgconn.flush()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        eventually(lambda: scene.sql(waiting, backend), "it never waited")
        connection.close()  # as the kernel does it for a process that is killed
        eventually(lambda: not scene.sql(waiting, backend), "the backend waits on, and holds its locks")
    sessions.close()


class _TimeLimit(Exception):
    """As Celery's soft one: raised by a signal handler, wherever the process is."""


def test_a_time_limit_in_the_middle_of_a_statement_is_what_the_flush_ends_with(scene: Scene) -> None:
    scene.sql(VIEWS)
    pipeline = scene.pipeline()
    pipeline.write("views", {"page": 1}, add={"n": 1})

    def ring(*_: object) -> None:
        raise _TimeLimit

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with scene.connect() as blocker, blocker.transaction():
            blocker.execute("LOCK TABLE views")
            signal.setitimer(signal.ITIMER_REAL, 1)
            with pytest.raises(_TimeLimit):
                pipeline.flush_shard(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (shard,) = pipeline.status().shards
    assert (shard.failures, shard.attempts, shard.error) == (1, 1, "_TimeLimit")
    assert eventually(lambda: pipeline.flush_shard(0).events, "the old backend holds its locks") == 1
