"""Python's collector of cycles rests while a batch is worked on, and is as it was afterwards."""

import gc
from collections.abc import Iterator

import pytest

from pipeline import collector


@pytest.fixture(autouse=True)
def _awake() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_it_rests_meanwhile() -> None:
    with collector.at_rest():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_wakes_after_an_error() -> None:
    with pytest.raises(ValueError, match="bad"), collector.at_rest():
        raise ValueError("bad")
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    gc.disable()
    with collector.at_rest():
        pass
    assert not gc.isenabled()


def test_one_in_another_changes_nothing() -> None:
    with collector.at_rest():
        with collector.at_rest():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
