"""No broken message escapes: it is an event that can be written, or malformed, and what Celery is given it can take.

`scripts/fuzz` goes on for as long as one likes.
"""

import json
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.change import Change
from pipeline.core.codec import Malformed, decode
from scripts.fuzzing.__main__ import fuzz, main, whole_messages
from scripts.fuzzing.judge import Judge
from scripts.fuzzing.mutants import Mutants
from tests.unit.broken_messages import AT_THE_DOOR, BODIES, EIGHT, ENVELOPES, body
from tests.unit.messages import TASK, message
from tests.unit.strategies import changes

INPUTS = 6_000
EXAMPLES = 50
ANYWHERE = {**EIGHT, **ENVELOPES, **BODIES}
KNOWN = {**ANYWHERE, **AT_THE_DOOR}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def test_no_mutant_of_a_golden_message_escapes(judge: Judge) -> None:
    before = judge.outcomes.copy()
    assert fuzz(INPUTS, 20_261_121, judge) == []
    seen = judge.outcomes - before
    assert seen["event"] > INPUTS / 50
    assert seen["malformed"] > INPUTS / 2
    assert seen["let in"] > INPUTS / 100


def test_the_same_seed_breaks_the_same_messages_in_the_same_way() -> None:
    first, second = (Mutants(whole_messages(), 7) for _ in range(2))
    assert [first.next() for _ in range(200)] == [second.next() for _ in range(200)]


@settings(max_examples=EXAMPLES)
@given(st.lists(changes, min_size=1, max_size=3), st.integers(0, 2**32), st.integers(1, 4))
def test_no_mutant_of_any_message_escapes(judge: Judge, changes: list[Change], seed: int, rounds: int) -> None:
    raw = message("an-id", changes)
    for whole in (raw, raw.replace(b"pipeline.events.{3}", b"pipeline")):
        mutants = Mutants([whole], seed)
        for _ in range(rounds):
            assert judge.escape(mutants.next()) is None


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200))
def test_no_bytes_in_a_body_escape(judge: Judge, found: bytes) -> None:
    assert judge.escape(found) is None
    assert judge.escape(body(found)) is None


@pytest.mark.parametrize("kind", KNOWN)
def test_no_known_kind_of_broken_message_escapes_or_is_let_in(judge: Judge, kind: str) -> None:
    before = judge.outcomes["let in"]
    assert judge.escape(KNOWN[kind][0]) is None
    assert judge.outcomes["let in"] == before


@pytest.mark.parametrize("kind", ANYWHERE)
def test_what_is_broken_wherever_it_lies_is_malformed_to_the_flush(kind: str) -> None:
    raw, reason = KNOWN[kind]
    found = decode(raw, TASK)
    assert isinstance(found, Malformed)
    assert found.raw == raw
    assert reason in found.reason


def test_the_judge_catches_what_escapes(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    good = body('[[],{"table":"t","key":{"id":1}},{}]')
    assert judge.escape(good) is None
    typed: dict[str, Any] = json.loads(good)
    typed["headers"]["trace"] = {"__type__": "uuid", "__value__": {"hex": "no"}}
    monkeypatch.setattr("scripts.fuzzing.judge.read_as_celery", lambda _: None)
    assert "badly formed" in (judge.escape(json.dumps(typed).encode()) or "")


@pytest.mark.parametrize("words", [["--nope"], ["--inputs", "0"], ["--seed", "x"]])
def test_wrong_usage_of_the_script_is_told_in_its_own_name(words: list[str]) -> None:
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 2
    assert ended.output.startswith("Usage: scripts/fuzz [--inputs N] [--seed S] [--json]; see scripts/fuzz --help\n")
