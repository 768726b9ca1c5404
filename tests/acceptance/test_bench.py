"""``scripts/bench`` as users run it: every line of the goals is there, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from scripts.benchmark import documents
from scripts.benchmark.goals import GOALS
from tests.acceptance.nodes import ROOT

BENCH = [sys.executable, "-m", "scripts.benchmark"]
QUICK = ["--quick", "--events", "400", "--rows", "40", "--without-batches"]
SECONDS = 110.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_quick_run_measures_every_goal_and_fails_none(tmp_path: Path) -> None:
    svg = tmp_path / "bars.svg"
    done = subprocess.run(
        [*BENCH, *QUICK, "--json", "--picture", str(svg)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [line["name"] for line in result["lines"]] == [goal.name for goal in GOALS.values()]
    assert {line["ok"] for line in result["lines"]} == {None}
    unmeasured = {line["name"] for line in result["lines"] if line["value"] is None}
    assert unmeasured == {GOALS["batches"].name}
    assert {"drain: log", "stock task per row: flights", "read, miss"} < result["measured"].keys()
    assert ET.parse(svg).getroot().attrib["role"] == "img"  # noqa: S314


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting workers", "round 1 of 1: drain: counters"])
def test_ctrl_c_ends_it_at_once_and_leaves_nothing_behind(moment: str) -> None:
    process = subprocess.Popen(
        [*BENCH, *QUICK], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        assert any(moment in line for line in process.stderr)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_run_that_was_kept_is_shown_without_measuring(tmp_path: Path) -> None:
    svg = tmp_path / "bars.svg"
    command = [*BENCH, "--from", str(documents.RUN), "--picture", str(svg)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}
    assert "Goals" in done.stdout
    assert svg.read_text("utf-8") == documents.PICTURE.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "{empty}"], "is not what --json has printed"),
        (["--from", "{text}"], "is not what --json has printed"),
        (["--from", "{quick}", "--write-docs"], "this one judges no goal"),
        (["--quick", "--write-docs"], "not --quick"),
        (["--picture", "{nowhere}/bars.svg"], "there is no directory"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    run = json.loads(documents.RUN.read_text("utf-8"))
    run["lines"] = [{**line, "ok": None} for line in run["lines"]]
    for name, text in (("empty", "{}"), ("text", "fast"), ("quick", json.dumps(run))):
        (tmp_path / name).write_text(text, encoding="utf-8")
    paths = {name: tmp_path / name for name in ("empty", "text", "quick", "nowhere")}
    before = documents.RUN.read_bytes()
    command = [*BENCH, *(argument.format_map(paths) for argument in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, complaint in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert documents.RUN.read_bytes() == before
