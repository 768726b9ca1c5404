"""What Ctrl-C and SIGTERM do while ``pipeline bench`` measures, and afterwards; see also test_cli_bench.py."""

import signal
from collections.abc import Iterator

import pytest

from pipeline.bench.measures import Wrong
from pipeline.cli.benchmark import _ended_once

ENDING = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(signum) for signum in ENDING]
    yield
    for signum, handler in zip(ENDING, before, strict=True):
        signal.signal(signum, handler)


def test_a_measurement_that_fails_leaves_the_signals_as_they_were() -> None:
    before = [signal.getsignal(signum) for signum in ENDING]
    with pytest.raises(Wrong), _ended_once():
        raise Wrong
    assert [signal.getsignal(signum) for signum in ENDING] == before


@pytest.mark.parametrize("first", ENDING)
def test_after_one_of_them_another_one_does_not_disturb_the_end(first: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), _ended_once():
        signal.raise_signal(first)
    assert {signal.getsignal(signum) for signum in ENDING} == {signal.SIG_IGN}
