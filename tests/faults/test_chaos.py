"""The chaos runner: a short run finds nothing, and every bug that is put into the service is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 110
"""A run that hangs must not be killed by the test's own timeout: then it could not clean up."""


def chaos(*words: str, bug: str | None = None) -> tuple[int, dict[str, Any]]:
    """Run it; its exit code and its result."""
    environment = {**os.environ, **({"CHAOS_BUG": bug} if bug else {})}
    app = ["--app", "tests.faults.broken"] if bug else []
    result = subprocess.run(
        [sys.executable, "-m", "scripts.chaos_run", "--json", *app, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_SECONDS,
    )
    sys.stderr.write(result.stderr)
    found = json.loads(result.stdout)
    if "directory" in found and bug:
        shutil.rmtree(found["directory"])
    return result.returncode, found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(400)
def test_faults_at_random_lose_double_and_reorder_nothing() -> None:
    small = ("--workers", "1", "--producers", "2")
    code, result = chaos("--seed", "3", "--minutes", "0.3", *small)
    assert (code, result["ok"]) == (0, True)
    assert result["applied"] > 100
    assert result["faults"] > 5


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("bug", "faults", "law"),
    [
        ("acknowledges before it commits", "postgres_disk_full,postgres_serialization", "lost"),
        ("ignores the ledger", "redis_back_in_time", "doubled"),
        ("forgets an add", "redis_slow", "sum"),
        ("reverses a batch", "redis_slow", "order"),
    ],
)
def test_a_service_with_a_bug_is_found_out(bug: str, faults: str, law: str) -> None:
    """A fault may miss the moment in which it would show; three runs of it do not."""
    small = ("--minutes", "0.08", "--workers", "1", "--producers", "2", "--rate", "200", "--drain-seconds", "20")
    results: list[dict[str, Any]] = []
    for seed in ("1", "2", "3"):
        code, result = chaos("--seed", seed, "--faults", faults, *small, bug=bug)
        assert code == (0 if result["ok"] else 1)
        results.append(result)
        if not result["ok"]:
            break
    found = results[-1]
    assert not found["ok"], f"the bug was not found, and this is what happened: {results}"
    assert found.get("violations", {}).get(law, 0) > 0, found
    first = found["violation"]
    assert first["events"]
    assert all(event["journal"] and event["in_postgres"] for event in first["events"])


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(400)
def test_an_interrupted_run_leaves_nothing_behind() -> None:
    words = [sys.executable, "-m", "scripts.chaos_run", "--workers", "1", "--producers", "1"]
    run = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stderr is not None
        (directory,) = re.findall(r"in (/.*) …", run.stderr.readline())
        assert "faults" in run.stderr.readline()  # it is under way
        assert _processes_of(directory)
        run.send_signal(signal.SIGINT)
        assert run.wait(RUN_SECONDS) == 130
    finally:
        run.kill()
        run.communicate()
    assert _processes_of(directory) == []
    assert not Path(directory).exists()


def _processes_of(directory: str) -> list[psutil.Process]:
    """Those that were told to live there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == directory or directory in " ".join(process.cmdline()):
                found.append(process)
    return found
