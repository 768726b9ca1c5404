"""The documents are true: their snippets run, and their tables list what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from pipeline import Config, Pipeline
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.prometheus import PipelineCollector

ROOT = Path(__file__).parents[2]
ASYNCIO = (ROOT / "docs/how-to/asyncio.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
BACKPRESSURE = (ROOT / "docs/how-to/backpressure.md").read_text("utf-8")
SETTINGS = (ROOT / "docs/reference/settings.md").read_text("utf-8")
CELERY = (ROOT / "docs/how-to/celery.md").read_text("utf-8")
METRICS = (ROOT / "docs/how-to/metrics.md").read_text("utf-8")


WAITING = (ROOT / "docs/how-to/waiting.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_example_of_the_readme_does_what_it_says(redis_url: str, database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline,
    ):
        for block in blocks(README, "sql"):
            database.execute(block.encode())
        database.execute("INSERT INTO carts VALUES (3, 'A1')")
        pipeline.migrate()
        script = "\n".join(blocks(README, "python")).replace("redis://127.0.0.1:6379/0", redis_url)
        environment = {**os.environ, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
        subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, cwd=ROOT, check=True)
        for shard in range(pipeline.config.shards):
            pipeline.flush_shard(shard)
        assert pipeline.status().dead_letters == 0
        assert database.execute("SELECT sum(views), count(*) FROM page_views").fetchone() == (10_001, 100)
        assert database.execute("SELECT title FROM page_views WHERE last_seen IS NOT NULL").fetchall() == [("Home",)]
        assert database.execute("SELECT count(*) FROM carts").fetchone() == (0,)
        assert database.execute("SELECT actor, action FROM audit_log").fetchall() == [("u1", "login")]
        assert database.execute("SELECT order_id, total FROM order_lines JOIN orders ON id = order_id").fetchall() == [
            (42, 3)
        ]


def test_the_examples_about_backpressure_do_what_they_say(redis_url: str, database_url: str) -> None:
    refused, *others = blocks(BACKPRESSURE, "python")
    script = "\n".join(
        [
            refused,
            'assert [count_view(7), count_view(7)] == [(204, {}), (503, {"Retry-After": "60"})]',
            *others,
            "assert (patient.config.when_full, patient.config.full_timeout_seconds) == ('block', 5)",
            "print(len(changes) - len(left))",
        ]
    )
    environment = {"PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url, "PIPELINE_MAX_PENDING": "8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        pipeline.migrate()
        assert 1 < pipeline.status().pending == 1 + int(done.stdout) < 100


USE_OF_ASYNCIO = """
async def use():
    async with lifespan(None):
        first = await view(7)
        await order(42)
        imported = await import_pages([7, 8])
        print(first, imported, await view(7))

asyncio.run(use())
"""


def test_the_example_of_asyncio_does_what_it_says(redis_url: str, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0)")
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        pipeline.migrate()
    script = "\n".join([*blocks(ASYNCIO, "python"), USE_OF_ASYNCIO])
    environment = {**os.environ, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        env=environment, cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{'page_id': 7, 'views': 1} 2 {'page_id': 7, 'views': 3}\n", "")


def test_the_example_of_waiting_does_what_it_says(redis_url: str, database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline,
    ):
        database.execute("".join(blocks(README, "sql")).encode())
        pipeline.migrate()
        environment = {**os.environ, "PIPELINE_REDIS_URL": redis_url, "PIPELINE_DATABASE_URL": database_url}
        command = [sys.executable, "-W", "error", "-c", "\n".join(blocks(WAITING, "python"))]
        with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                for shard in range(pipeline.config.shards):
                    pipeline.flush_shard(shard)
            assert process.stdout is not None
            assert (process.returncode, process.stdout.read()) == (0, "committed\napplied\n")


def test_the_example_of_a_celery_client_does_what_it_says(redis_url: str, database_url: str) -> None:
    script = "\n".join(blocks(CELERY, "python"))
    script = script.replace("redis://127.0.0.1:6379/0", redis_url)
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline,
    ):
        database.execute("CREATE TABLE page_views (page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0)")
        pipeline.migrate()
        subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True)
        assert pipeline.take_ingress(read_as_celery).accepted == 102
        assert len(list(pipeline.drain())) >= pipeline.config.shards
        assert database.execute("SELECT sum(views), count(*) FROM page_views").fetchone() == (102, 100)


@pytest.mark.parametrize("line", [line for block in blocks(README, "console") for line in block.splitlines()])
def test_every_command_of_the_readme_exists(line: str) -> None:
    command = line.removeprefix("$ ").partition("#")[0].split()
    program = ROOT / command[0] if "/" in command[0] else Path(sys.executable).parent / command[0]
    done = subprocess.run([program, *command[1:], "--help"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_settings_page_lists_every_setting_with_its_default() -> None:
    documented = dict(re.findall(r"^\| `(PIPELINE_\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE))
    config = Config()
    fields = {f"PIPELINE_{name.removesuffix('_seconds').upper()}": name for name in Config.__struct_fields__}
    assert documented.keys() == fields.keys()
    derived = {"PIPELINE_BROKER_URL", "PIPELINE_FLUSH_THRESHOLD", "PIPELINE_TABLES", "PIPELINE_WRITE_THROUGH_TABLES"}
    for variable, text in documented.items():
        if variable not in derived:
            assert text == f"`{getattr(config, fields[variable])}`", variable


def test_the_metrics_page_lists_every_metric_and_its_alerts_ask_for_no_other(redis_url: str, database_url: str) -> None:
    with Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline:
        families = PipelineCollector(pipeline).describe()
    metrics = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert set(re.findall(r"^\| `(pipeline_\w+)", METRICS, re.MULTILINE)) == metrics
    (rules,) = (yaml.safe_load(block)["groups"][0]["rules"] for block in blocks(METRICS, "yaml"))
    assert {name for rule in rules for name in re.findall(r"pipeline_\w+", rule["expr"])} <= metrics
    (snippet,) = blocks(METRICS, "python")
    subprocess.run([sys.executable, "-W", "error", "-c", snippet], cwd=ROOT, check=True)


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
