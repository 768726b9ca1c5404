"""A broker that is not Redis: the guard sees what kombu hands over, and lets none of the broken messages in."""

import itertools
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kombu import Connection

from pipeline import Config, Pipeline
from pipeline.flush import End
from tests.acceptance.nodes import ProcessWorker
from tests.acceptance.waiting import wait_until
from tests.unit.broken_messages import AT_THE_DOOR, BODIES, EIGHT, body, raw, stock

SHOP = '''
"""A Celery app of a team that has its broker elsewhere (here: files), takes pickles, and has tasks of its own."""

import os

from celery import Celery

from pipeline import Pipeline
from pipeline.contrib.celery import register

app = Celery("shop", broker="filesystem://", set_as_current=True)
app.conf.broker_transport_options = {
    "data_folder_in": os.environ["FILES"], "data_folder_out": os.environ["FILES"],
    "control_folder": os.environ["FILES"] + "-control", "polling_interval": 0.01,
}
app.conf.accept_content = ["json", "pickle", "yaml"]
app.conf.worker_prefetch_multiplier = 1
register(app, Pipeline.from_env())


@app.task(name="shop.greet")
def greet(name):
    print("hello " + name, flush=True)
'''

ELSEWHERE = {
    kind: found
    for kind, found in {**EIGHT, **BODIES, **AT_THE_DOOR}.items()
    # what other brokers frame themselves, so that kombu needs it before anybody can look
    if kind not in {"not JSON", "no delivery tag", "no delivery info", "a routing key of a shard"}
    and not kind.startswith(
        ("fifty megabytes", "a body that cannot", "a body compressed", "a bomb", "an unknown compre")
    )
}
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def database(database_url: str, migrated: None) -> Iterator[psycopg.Connection]:  # noqa: ARG001
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint DEFAULT 0)")
        yield connection


@pytest.fixture(scope="module")
def pipeline(redis_url: str, database_url: str, migrated: None) -> Iterator[Pipeline]:  # noqa: ARG001
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def shop(environment: dict[str, str], files: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessWorker]:
    directory = tmp_path_factory.mktemp("shop")
    (directory / "tasks.py").write_text(SHOP)
    worker = ProcessWorker(
        environment={**environment, "FILES": files, "PIPELINE_BROKER_URL": "filesystem://", "C_FORCE_ROOT": "1"},
        scratch=directory,
        name="shop",
        options=("--concurrency=1", "--queues=pipeline,celery", "--without-heartbeat"),
        directory=directory,
    )
    worker.start()
    yield worker
    worker.stop()
    worker.remove()


@pytest.fixture(scope="module")
def channel(files: str) -> Iterator[Any]:
    options = {"data_folder_in": files, "data_folder_out": files, "control_folder": f"{files}-control"}
    with Connection("filesystem://", transport_options=options) as connection:
        yield connection.channel()


def send(channel: Any, message: bytes, queue: str = "pipeline") -> None:
    """Put the message into the queue with the same fields, in the broker's own framing."""
    channel._put(queue, json.loads(message))


def flushed(pipeline: Pipeline) -> bool:
    return all(report.end is End.EMPTY for report in pipeline.drain())


def test_what_is_broken_becomes_a_dead_letter_and_what_is_behind_it_arrives(
    shop: ProcessWorker, channel: Any, pipeline: Pipeline, database: psycopg.Connection
) -> None:
    pid = shop.pid
    before = pipeline.dead_letters.extent().count
    pages = {kind: next(numbers) for kind in ELSEWHERE}
    for kind, (message, _) in ELSEWHERE.items():
        change = {"table": "page_views", "key": {"page_id": pages[kind]}, "add": {"views": 1}}
        send(channel, message)
        send(channel, raw(stock(f"id-{pages[kind]}", change)))

    def arrived() -> bool:
        flushed(pipeline)
        row = database.execute("SELECT count(*), sum(views) FROM page_views").fetchone()
        return row == (len(pages), len(pages))

    wait_until(arrived, "the events behind them")
    expected = before + len(ELSEWHERE)
    wait_until(lambda: flushed(pipeline) and pipeline.dead_letters.extent().count == expected, "the dead letters")
    letters = {sha256(canonical(letter.message)).digest(): letter.reason for letter in pipeline.dead_letters.page()}
    for kind, (message, reason) in ELSEWHERE.items():
        assert reason in letters[sha256(canonical(message)).digest()], kind
    assert (shop.status, shop.pid) == ("running", pid)


def canonical(message: bytes) -> bytes:
    """The fields of a message without those that a broker adds, whatever their order."""
    found = json.loads(message)
    return json.dumps([found["body"], found["headers"], found["content-type"]], sort_keys=True).encode()


def test_a_pickle_is_not_opened_even_where_the_app_takes_pickles(
    shop: ProcessWorker, channel: Any, pipeline: Pipeline, tmp_path: Path
) -> None:
    before = pipeline.dead_letters.extent().count
    proof = tmp_path / "opened"
    pickled = body(f"cposix\nsystem\n(S'touch {proof}'\ntR.".encode())
    send(channel, raw(json.loads(pickled), content_type="application/x-python-serialize"))
    send(channel, raw({**json.loads(pickled), "headers": {}}, content_type="application/x-python-serialize"))
    wait_until(lambda: flushed(pipeline) and pipeline.dead_letters.extent().count == before + 2, "the dead letters")
    assert not proof.exists()
    assert shop.status == "running"


def test_other_tasks_and_queues_of_the_app_are_left_alone(
    shop: ProcessWorker, channel: Any, pipeline: Pipeline
) -> None:
    before = pipeline.dead_letters.extent().count
    greeting = stock("g-1", task="shop.greet")
    greeting["properties"]["delivery_info"]["routing_key"] = "celery"
    unknown = json.loads(raw({**greeting, "headers": {**greeting["headers"], "task": "shop.nobody"}}))
    for message in (unknown, {**greeting, "body": json.dumps([["in its queue"], {}, {}])}):
        send(channel, raw(message), "celery")
    send(channel, raw({**stock("g-2", task="shop.greet"), "body": json.dumps([["in ours"], {}, {}])}))
    wait_until(lambda: "hello in its queue" in shop.logs() and "hello in ours" in shop.logs(), "both greetings")
    assert flushed(pipeline)
    assert pipeline.dead_letters.extent().count == before
    assert "shop.nobody" in shop.logs()
