"""What docs/how-to/write-through.md shows, done."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline import Change, Config, InvalidEvent, Pipeline
from tests.integration.scene import Scene
from tests.integration.test_documentation import blocks

PAGE = (Path(__file__).parents[2] / "docs/how-to/write-through.md").read_text("utf-8")


def test_the_snippets_do_what_the_page_says(scene: Scene) -> None:
    scene.sql("CREATE TABLE orders (id int PRIMARY KEY, status text)")
    scene.sql("CREATE TABLE payments (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int, amount int)")
    pipeline = scene.pipeline()
    alone, joined = blocks(PAGE, "python")
    names: dict[str, Any] = {"pipeline": pipeline, "psycopg": psycopg, "DATABASE_URL": scene.database_url}
    exec(alone, names)  # noqa: S102
    assert scene.sql("SELECT order_id, amount FROM payments") == [(9, 12)]
    assert pipeline.read("orders", {"id": 9}) is None
    exec(joined, names)  # noqa: S102
    assert scene.sql("SELECT order_id, amount FROM payments") == [(9, 12)] * 2
    assert pipeline.read("orders", {"id": 9}) == {"id": 9, "status": "paid"}


def test_the_setting_is_spelled_as_the_page_says(scene: Scene) -> None:
    assert "`PIPELINE_WRITE_THROUGH_TABLES=orders,payments`" in PAGE
    assert "`PIPELINE_WRITE_THROUGH_POLICY=route`" in PAGE
    config = Config.from_mapping(
        {
            "PIPELINE_REDIS_URL": scene.redis_url,
            "PIPELINE_DATABASE_URL": scene.database_url,
            "PIPELINE_WRITE_THROUGH_TABLES": "orders, payments",
        }
    )
    with Pipeline(config) as pipeline, pytest.raises(InvalidEvent, match="call write_through"):
        pipeline.write_many([Change("payments", insert={"amount": 1})])
