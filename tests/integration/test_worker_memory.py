"""The memory of a worker's process does not depend on how much is pending (law L7)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from pipeline import Change
from tests.integration.scene import Scene

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = "x" * 4000
SETTINGS: Final = {"shards": 1, "batch_size": 100, "max_pending": 100_000}
LITTLE, MUCH = 1_000, 6_000
SPARE_BYTES: Final = 3_000_000
"""What the peaks of two runs may differ by; the events between `LITTLE` and `MUCH` are 20 MB."""


def peak(scene: Scene, events: int) -> int:
    """The most bytes that were ever resident in a process that has drained so many events, and nothing else."""
    pipeline = scene.pipeline(**SETTINGS)
    pipeline.write_many(Change("notes", {"id": n % 1000}, set={"text": TEXT}) for n in range(events))
    environment = {
        **os.environ,
        **{f"PIPELINE_{name.upper()}": str(value) for name, value in SETTINGS.items()},
        "PIPELINE_REDIS_URL": scene.redis_url,
        "PIPELINE_DATABASE_URL": scene.database_url,
    }
    command = [sys.executable, "-m", "scripts.benchmark.draining"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout)
    assert found["events"] == events
    assert pipeline.status().pending == 0
    bytes_: int = found["memory_peak"]
    return bytes_


def test_six_times_the_backlog_takes_no_more_memory(scene: Scene) -> None:
    scene.sql("CREATE TABLE notes (id int PRIMARY KEY, text text)")
    little = peak(scene, LITTLE)
    much = peak(scene, MUCH)
    assert much - little < SPARE_BYTES
    assert much < 150_000_000  # DESIGN.md, section 8
