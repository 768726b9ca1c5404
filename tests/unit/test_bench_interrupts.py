"""What Ctrl-C does while ``pipeline bench`` measures, and afterwards; see also tests/integration/test_cli_bench.py."""

import signal

import pytest

from pipeline.bench.measures import Wrong
from pipeline.cli.benchmark import _ended_once


def test_a_measurement_that_fails_leaves_ctrl_c_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Wrong), _ended_once():
        raise Wrong
    assert signal.getsignal(signal.SIGINT) is before


def test_after_ctrl_c_another_one_does_not_disturb_the_end() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), _ended_once():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
