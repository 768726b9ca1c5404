"""The environment of celery-batches: where it cannot be made, the benchmark says why and goes on."""

import subprocess
from pathlib import Path

import pytest

from scripts.benchmark.environment import NotInstalled, python_with


def test_what_pip_cannot_install_is_told_and_leaves_no_half_environment(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--no-index\nnothing-of-this-name==1\n")
    with pytest.raises(NotInstalled, match="nothing-of-this-name"):
        python_with(requirements, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_environment_is_made_once_and_again_when_its_requirements_change(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--no-index\n")
    python = python_with(requirements, tmp_path / "made")
    assert subprocess.run([python, "-c", "pass"], check=False).returncode == 0
    mark = tmp_path / "made" / "mark"
    mark.touch()
    python_with(requirements, tmp_path / "made")
    assert mark.exists()
    requirements.write_text("--no-index\n# another\n")
    python_with(requirements, tmp_path / "made")
    assert not mark.exists()
