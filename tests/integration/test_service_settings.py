"""The service says what is wrong with its settings in one line, instead of a traceback of Celery's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["worker", "beat"])
@pytest.mark.parametrize(("name", "value"), [("PIPELINE_SHARDS", "many"), ("PIPELINE_REDIS_URL", "redis://host:port")])
def test_a_wrong_setting_ends_the_service_with_one_sentence(command: str, name: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", command],
        env={**os.environ, name: value},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{name}: ")
    assert (ended.returncode, ended.stdout) == (1, "")
