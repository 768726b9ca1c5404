"""The documents are true: their snippets run, and their tables list what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pipeline import Config, Pipeline

ROOT = Path(__file__).parents[2]
ASYNCIO = (ROOT / "docs/how-to/asyncio.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs/reference/settings.md").read_text("utf-8")
SCHEMA = """
CREATE TABLE page_views (
    page_id integer PRIMARY KEY, views bigint NOT NULL DEFAULT 0, title text, last_seen timestamptz
);
CREATE TABLE carts (user_id integer, sku text, PRIMARY KEY (user_id, sku));
CREATE TABLE audit_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, actor text, action text);
CREATE TABLE orders (id integer PRIMARY KEY, total integer NOT NULL);
CREATE TABLE order_lines (order_id integer REFERENCES orders, sku text);
INSERT INTO carts VALUES (3, 'A1');
"""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_example_of_the_readme_does_what_it_says(redis_url: str, database_url: str) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        Pipeline(Config(redis_url=redis_url, database_url=database_url)) as pipeline,
    ):
        database.execute(SCHEMA)
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


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
