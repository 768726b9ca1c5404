"""Metrics for Prometheus, of real servers: what they say, also when one of them is away or went back in time."""

import re
import signal
import socket
import sys
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pipeline import Change, Pipeline
from pipeline.contrib.embedded import Postgres
from pipeline.contrib.prometheus import PipelineCollector
from pipeline.flush import End
from tests.integration.command_line import PROGRAM, CommandLine
from tests.integration.scene import Scene, disk_full, drain, restore, restored_from_before, snapshot

OF_REDIS = {
    "pipeline_pending_events",
    "pipeline_oldest_pending_age_seconds",
    "pipeline_frozen_events",
    "pipeline_parked_events",
    "pipeline_batch_failures",
}
OF_POSTGRESQL = {
    "pipeline_applied_batches_total",
    "pipeline_store_went_back_total",
    "pipeline_dead_letters",
    "pipeline_rechecking",
}
AWAY = "redis://:hunter2@127.0.0.1:1/0"
SERVING = re.compile(r"serving (\S+) until")


class Scrapes:
    """A registry with the collector of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(PipelineCollector(pipeline))

    def value(self, name: str, **labels: Any) -> float | None:
        return self._registry.get_sample_value(
            name, {"namespace": "pipeline", **{k: str(v) for k, v in labels.items()}}
        )

    def names(self) -> set[str]:
        return {sample.name for family in self._registry.collect() for sample in family.samples}


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0 CHECK (n < 100))")
    return scene.pipeline()


def count(pipeline: Pipeline, n: int = 1) -> None:
    pipeline.write("counters", {"id": 1}, add={"n": n})


def test_every_metric_of_an_unused_pipeline_is_there_and_zero(scene: Scene) -> None:
    scrapes = Scrapes(scene.pipeline(shards=2))
    assert scrapes.names() == {"pipeline_up", *OF_REDIS, *OF_POSTGRESQL}
    assert {scrapes.value(name, shard=shard) for name in OF_REDIS | OF_POSTGRESQL for shard in range(2)} == {0.0}
    assert {scrapes.value("pipeline_up", side=side) for side in ("redis", "postgresql")} == {1.0}


def test_pending_events_and_applied_batches_are_counted_per_shard(scene: Scene) -> None:
    scene.sql("CREATE TABLE counters (id int PRIMARY KEY, n int)")
    pipeline = scene.pipeline(shards=2)
    scrapes = Scrapes(pipeline)
    pipeline.write_many([Change("counters", {"id": i}, add={"n": 1}) for i in range(20)])
    pending = [scrapes.value("pipeline_pending_events", shard=shard) for shard in range(2)]
    assert pending == [shard.pending for shard in pipeline.status().shards]
    assert sum(filter(None, pending)) == 20
    assert (scrapes.value("pipeline_oldest_pending_age_seconds", shard=0) or 0) > 0
    pipeline.flush_shard(0)
    assert [scrapes.value("pipeline_pending_events", shard=shard) for shard in range(2)] == [0, pending[1]]
    assert [scrapes.value("pipeline_applied_batches_total", shard=shard) for shard in range(2)] == [1, 0]


def test_a_batch_that_keeps_failing_shows_how_often(scene: Scene, pipeline: Pipeline) -> None:
    count(pipeline)
    with disk_full(scene, "counters"):
        assert pipeline.flush_shard(0).end is End.FAILED
    scrapes = Scrapes(pipeline)
    assert scrapes.value("pipeline_batch_failures", shard=0) == 1
    assert scrapes.value("pipeline_frozen_events", shard=0) == 1


def test_a_dead_letter_is_counted(pipeline: Pipeline) -> None:
    count(pipeline, n=100)
    drain(pipeline)
    assert Scrapes(pipeline).value("pipeline_dead_letters", shard=0) == 1


def test_a_paused_table_is_named_and_nothing_of_its_events_is(scene: Scene) -> None:
    pipeline = scene.pipeline()
    scrapes = Scrapes(pipeline)
    pipeline.write("no_such_table", {"id": "hunter2"}, set={"note": "hunter2"})
    pipeline.flush_shard(0)
    assert scrapes.value("pipeline_table_paused", shard=0, table="no_such_table") == 1
    assert scrapes.value("pipeline_parked_events", shard=0) == 1
    assert "hunter2" not in CommandLine(scene.redis_url, scene.database_url)("metrics").out
    scene.sql("CREATE TABLE no_such_table (id text PRIMARY KEY, note text)")
    drain(pipeline)
    assert scrapes.value("pipeline_table_paused", shard=0, table="no_such_table") is None


def test_a_postgresql_restored_from_an_older_state_is_counted(
    scene: Scene, pipeline: Pipeline, postgres: Postgres
) -> None:
    scrapes = Scrapes(pipeline)
    with restored_from_before(scene, postgres, pipeline):
        count(pipeline)
        drain(pipeline)
        assert scrapes.value("pipeline_store_went_back_total", shard=0) == 0
    count(pipeline)
    drain(pipeline)
    assert scrapes.value("pipeline_store_went_back_total", shard=0) == 1


def test_a_redis_that_went_back_in_time_shows_that_events_are_looked_up(scene: Scene, pipeline: Pipeline) -> None:
    scrapes = Scrapes(pipeline)
    count(pipeline)
    older = snapshot(scene.redis)
    drain(pipeline)
    restore(scene.redis, older)
    count(pipeline)
    drain(pipeline)
    assert scrapes.value("pipeline_rechecking", shard=0) == 1


def test_while_postgresql_is_away_a_scrape_shows_what_redis_knows(
    pipeline: Pipeline, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    count(pipeline)
    scrapes = Scrapes(pipeline)
    postgres.stop()
    assert scrapes.names() == {"pipeline_up", *OF_REDIS}
    assert scrapes.value("pipeline_up", side="postgresql") == 0
    assert scrapes.value("pipeline_up", side="redis") == 1
    assert scrapes.value("pipeline_pending_events", shard=0) == 1
    assert "the metrics lack what only postgresql knows" in caplog.text
    postgres.start()
    assert scrapes.value("pipeline_up", side="postgresql") == 1
    assert scrapes.value("pipeline_applied_batches_total", shard=0) == 0


def test_while_redis_is_away_a_scrape_shows_what_the_ledger_knows(scene: Scene, pipeline: Pipeline) -> None:
    count(pipeline)
    drain(pipeline)
    scrapes = Scrapes(scene.pipeline(redis_url=AWAY))
    assert scrapes.names() == {"pipeline_up", *OF_POSTGRESQL}
    assert scrapes.value("pipeline_up", side="redis") == 0
    assert scrapes.value("pipeline_applied_batches_total", shard=0) == 1


# --- the command


def test_the_command_prints_what_prometheus_can_read(scene: Scene, pipeline: Pipeline) -> None:
    count(pipeline)
    ended = CommandLine(scene.redis_url, scene.database_url)("metrics")
    assert (ended.code, ended.err) == (0, "")
    found = {sample.name: sample for family in text_string_to_metric_families(ended.out) for sample in family.samples}
    assert found.keys() == {"pipeline_up", *OF_REDIS, *OF_POSTGRESQL}
    assert found["pipeline_pending_events"].labels == {"namespace": "pipeline", "shard": "0"}
    assert found["pipeline_pending_events"].value == 1


def test_the_command_says_on_stderr_which_side_is_away_without_its_password(migrated_url: str) -> None:
    ended = CommandLine(AWAY, migrated_url)("metrics")
    assert ended.code == 0
    assert 'pipeline_up{namespace="pipeline",side="redis"} 0.0' in ended.out.splitlines()
    assert "what only redis knows" in ended.message
    assert "hunter2" not in ended.out + ended.err


def test_the_command_serves_until_ctrl_c(scene: Scene, pipeline: Pipeline) -> None:
    with CommandLine(scene.redis_url, scene.database_url).started("metrics", "--serve", "0") as process:
        assert process.stderr is not None
        said = SERVING.search(process.stderr.readline())
        assert said is not None
        assert said[1].startswith("http://127.0.0.1:")
        for pending in range(2):
            with urllib.request.urlopen(said[1], timeout=30) as answer:  # noqa: S310 - its scheme was just looked at
                assert (
                    f'pipeline_pending_events{{namespace="pipeline",shard="0"}} {pending}.0\n' in answer.read().decode()
                )
            count(pipeline)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_an_address_that_is_taken_is_told_in_one_line(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = CommandLine(scene.redis_url, scene.database_url)("metrics", "--serve", f"127.0.0.1:{port}")
    assert (ended.code, ended.out) == (1, "")
    assert ended.message == f"pipeline: cannot serve at 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "1:65536", ":-1", "²"])
def test_an_address_without_a_port_is_wrong_usage(address: str) -> None:
    ended = CommandLine(AWAY, "")("metrics", "--serve", address)
    assert (ended.code, ended.out) == (2, "")
    assert f"{address!r} is not [HOST:]PORT" in ended.message


def test_without_the_extra_the_command_says_what_to_install_and_the_others_work(scene: Scene) -> None:
    start = (
        "import sys; sys.modules['prometheus_client'] = None; "
        f"sys.argv[0] = {str(PROGRAM)!r}; from pipeline.cli import main"
    )
    cli = CommandLine(scene.redis_url, scene.database_url)
    ended = cli("metrics", program=(sys.executable, "-c", f"{start}; main()"))
    assert (ended.code, ended.out) == (1, "")
    assert (
        ended.message
        == "pipeline: prometheus_client is missing; metrics need: pip install 'celery-write-behind[metrics]'"
    )
    assert cli("status", program=(sys.executable, "-c", f"{start}; main()")).code == 0
