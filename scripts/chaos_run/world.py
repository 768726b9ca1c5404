"""Everything that the faults act on: real servers behind disturbed networks, and real processes."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import redis
from psycopg import sql

from pipeline import Config, Pipeline
from pipeline.contrib.embedded import Postgres, Valkey
from pipeline.contrib.embedded.process import Guard
from scripts.chaos_run.journal import now
from scripts.chaos_run.options import Options
from scripts.chaos_run.processes import Place, Process, Producers, beat, worker
from scripts.chaos_run.proxy import Proxy
from scripts.chaos_run.workload import LATE_COLUMN

__all__ = ["SETTINGS", "World"]

SCHEMA: Final = Path(__file__).parent / "sql" / "schema.sql"
LOG_TAIL: Final = 100_000
ERROR: Final = re.compile(r"[\w.]+(Error|Exception|Exit|Lost)\b")
PATIENCE_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.1

SETTINGS: Final[dict[str, str]] = {
    "PIPELINE_FLUSH_INTERVAL": "0.25",
    "PIPELINE_FLUSH_THRESHOLD": "100",
    "PIPELINE_FLUSH_SLICE": "2",
    "PIPELINE_BATCH_SIZE": "150",
    "PIPELINE_MAX_PENDING": "6000",
    "PIPELINE_LEASE": "2",
    "PIPELINE_REDIS_TIMEOUT": "2",
    "PIPELINE_STATEMENT_TIMEOUT": "2",
    "PIPELINE_RETRY_BASE": "0.1",
    "PIPELINE_RETRY_CAP": "2",
}
"""Recovery takes seconds, so that there is time for many faults."""


class World:
    """Servers, networks and processes in one directory. Whatever happens to us, guards end and remove them.

    Each lane of faults has a guard of its own: they are not thread-safe.
    """

    def __init__(self, options: Options) -> None:
        self.options: Final = options
        self._stack = ExitStack()
        self.directory: Final = Path(tempfile.mkdtemp(prefix="pipeline-chaos-"))
        if os.geteuid() == 0:
            self.directory.chmod(0o711)  # the unprivileged user who runs Postgres passes through
        guards = [Guard() for _ in range(3)]
        for guard in guards:
            guard.remove(self.directory)
        self._guards = guards
        # what AOF rewriting does to a copy of the file is not our concern; faults rewrite it on purpose
        self.valkey: Final = Valkey(
            self.directory / "valkey", config={"auto-aof-rewrite-percentage": 0}, guard=guards[0]
        )
        # nothing here has to survive a power cut
        self.postgres: Final = Postgres(
            self.directory / "postgres", settings={"fsync": "off", "max_connections": 60}, guard=guards[1]
        )
        self.redis_proxy: Final = Proxy(self.valkey.port)
        self.postgres_proxy: Final = Proxy(self.postgres.port)
        app, place = options.app, Place(self.environment, self.directory, guards[2])
        self.workers: Final = [worker(f"worker{number}", app, place) for number in range(options.workers)]
        self.beat: Final = beat(app, place)
        self.producers: Final = Producers(options.producers, options.seed, options.rate, place)

    # --- where everything is

    @property
    def environment(self) -> dict[str, str]:
        """Of every process: through the disturbed networks."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
            **{name: value for name, value in os.environ.items() if name.startswith("PIPELINE_EMBEDDED_")},
            **SETTINGS,
            "PIPELINE_SHARDS": str(self.options.shards),
            "PIPELINE_REDIS_URL": self.valkey.url.replace(f":{self.valkey.port}/", f":{self.redis_proxy.port}/"),
            "PIPELINE_DATABASE_URL": self.postgres.url.replace(
                f":{self.postgres.port}/", f":{self.postgres_proxy.port}/"
            ),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.directory),
        }

    @property
    def config(self) -> Config:
        """Of a pipeline that looks past the disturbed networks."""
        direct = {"PIPELINE_REDIS_URL": self.valkey.url, "PIPELINE_DATABASE_URL": self.postgres.url}
        names = {name: value for name, value in self.environment.items() if name.startswith("PIPELINE_")}
        return Config.from_mapping({**names, **direct})

    @contextmanager
    def redis(self) -> Iterator[Any]:
        """A client that looks past the network."""
        with redis.Redis.from_url(self.valkey.url, socket_timeout=5) as client:
            yield client

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode that looks past the network; waits for a server that recovers."""
        with self._connect() as connection:
            yield connection

    def _connect(self) -> psycopg.Connection[Any]:
        until = now() + PATIENCE_SECONDS
        while True:
            try:
                return psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5, application_name="chaos")
            except psycopg.OperationalError:
                if now() > until:
                    raise
                time.sleep(POLL_SECONDS)

    @property
    def celery(self) -> list[Process]:
        """Workers and beat."""
        return [*self.workers, self.beat]

    # --- life

    def start(self) -> None:
        """Start the servers and networks, and make the tables."""
        self.valkey.start()
        self.postgres.start()
        self.redis_proxy.start()
        self.postgres_proxy.start()
        with self.database() as connection:
            connection.execute(SCHEMA.read_bytes())
        with Pipeline(self.config) as pipeline:
            pipeline.migrate()

    def start_processes(self) -> None:
        """Start workers, beat and producers."""
        for process in self.celery:
            process.start()
        for number in range(len(self.producers.processes)):
            self.producers.start(number)

    @property
    def at_work(self) -> bool:
        """Whether a batch has been committed."""
        with self.database() as connection:
            return connection.execute("SELECT FROM pipeline.batch LIMIT 1").fetchone() is not None

    def heal(self) -> None:
        """End every disturbance. Servers and networks only; all lanes of faults must have ended."""
        self.redis_proxy.heal()
        self.postgres_proxy.heal()
        if not self.valkey.running:
            self.valkey.start()
        if not self.postgres.running:
            self.postgres.start()
        with self.redis() as client:
            client.config_set("maxmemory", 0)
        for process in [*self.celery, *self.producers.processes]:
            process.clock.jump_to(0.0)

    def add_late_column(self) -> None:
        """The migration that events have been waiting for."""
        with self.database() as connection:
            connection.execute(sql.SQL("ALTER TABLE audit ADD COLUMN {} int").format(sql.Identifier(LATE_COLUMN)))

    def stop(self, *, keep: bool) -> None:
        """End everything; delete the directory, or keep it."""
        with ExitStack() as stack:  # each step is taken, whatever the others raise
            for guard in self._guards:
                stack.callback(guard.close)
                if keep:
                    stack.callback(guard.leave, self.directory)
            stack.callback(self.valkey.kill)
            stack.callback(self.postgres.stop, "immediate")
            stack.callback(self.postgres_proxy.stop)
            stack.callback(self.redis_proxy.stop)
            for process in [*self.celery, *self.producers.processes]:
                stack.callback(process.kill)

    def last_words(self, process: Process) -> str:
        """Why a process ended, as far as its log says."""
        if not process.log.exists():
            return "no log"
        lines = process.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].splitlines()
        said = [line for line in lines if line and not line[0].isspace()]
        fatal = [line for line in said if "CRITICAL" in line] or [line for line in said if ERROR.match(line)]
        return (fatal or said or ["nothing in its log"])[-1][:200]
