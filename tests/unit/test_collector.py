"""Python's collector of cycles rests while a batch is worked on, and is as it was afterwards."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

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


@pytest.mark.parametrize("rests", [True, False])
def test_in_a_child_that_is_forked_meanwhile_it_is_awake_unless_its_parent_wants_none(*, rests: bool) -> None:
    with collector.at_rest() if rests else switched_off():
        child = os.fork()
        if child == 0:
            os._exit(int(gc.isenabled()))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == int(rests)


@contextmanager
def switched_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
