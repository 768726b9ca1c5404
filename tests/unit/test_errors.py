"""Every error keeps its facts, also through pickle, and the drawn tree is the real one."""

import inspect
import pickle
import re

import pytest

from pipeline import errors
from pipeline.errors import PipelineError

MADE: dict[str, PipelineError] = {
    "PipelineError": PipelineError("a problem"),
    "InvalidSetting": errors.InvalidSetting("PIPELINE_SHARDS", "is 0"),
    "InvalidEvent": errors.InvalidEvent("a problem", "t", "a"),
    "EventTooLarge": errors.EventTooLarge("too large", "t"),
    "InvalidRead": errors.InvalidRead("no such table", "t"),
    "PipelineFull": errors.PipelineFull(3, 100, 100, 7, 12.345),
    "DurabilityNotReached": errors.DurabilityNotReached("disk", "memory", "no AOF", ["first", None]),
    "StillPending": errors.StillPending(1.5, 2, 3, "a problem", "shard(s)"),
    "NotSettled": errors.NotSettled("t", 3, "another flusher is at work"),
    "TopologyMismatch": errors.TopologyMismatch("shards", "8", "4"),
    "BufferUnavailable": errors.BufferUnavailable("away", answered=True),
    "StoreError": errors.StoreError("a problem", "42601"),
    "StoreUnavailable": errors.StoreUnavailable("away", "57P03", answered=True),
    "NotMigrated": errors.NotMigrated("run it", "3F000"),
    "ApplyFailed": errors.ApplyFailed("a problem", "23505", "poison", "t", "lost", "an event", "a"),
    "ChangeRefused": errors.ChangeRefused("a problem", "23514", "t"),
}


def classes() -> dict[str, type[PipelineError]]:
    return {
        name: found
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, PipelineError) and found.__module__ == errors.__name__
    }


def test_every_error_is_public_and_tested_here() -> None:
    assert set(classes()) == set(errors.__all__) == set(MADE)


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = classes().items()
    drawn: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)\b", line):
            depth = len(found[1])
            path = [(above, name) for above, name in path if above < depth]
            drawn[found[2]] = path[-1][1] if path else None
            path.append((depth, found[2]))
    # a second base (ValueError) is not drawn
    assert drawn == {name: None if found is PipelineError else found.__mro__[1].__name__ for name, found in real}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickle_with_its_facts(name: str, protocol: int) -> None:
    error = MADE[name]
    error.receipts = ["first", None]
    copy = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
    assert copy.receipts == ["first", None]


def test_nobody_was_receipted_unless_it_is_said() -> None:
    assert PipelineError("a problem").receipts == ()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.InvalidEvent("a problem"), "a problem"),
        (errors.InvalidEvent("a problem", "t"), "t: a problem"),
        (errors.InvalidEvent("a problem", "t", "a"), "t.a: a problem"),
        (errors.InvalidEvent("a problem", column="a"), "a: a problem"),
        (errors.InvalidRead("a problem", "t"), "t: a problem"),
        (errors.InvalidRead("a problem"), "a problem"),
        (errors.InvalidSetting("PIPELINE_SHARDS", "is 0"), "PIPELINE_SHARDS: is 0"),
        (errors.StoreError("a problem"), "a problem"),
        (errors.StoreError("a problem", "42601"), "a problem (SQLSTATE 42601)"),
    ],
)
def test_the_text_of_an_error_says_where_and_what(error: PipelineError, text: str) -> None:
    assert str(error) == text


def test_the_text_about_a_full_shard_says_what_to_do() -> None:
    text = str(MADE["PipelineFull"])
    assert "shard 3 holds 100 pending events, its limit is 100; they take about 12.3 s to drain; 7 events" in text
    assert "nothing was drained lately" in str(errors.PipelineFull(3, 100, 100))
    assert "PIPELINE_MAX_PENDING" in text


@pytest.mark.parametrize("kind", [errors.InvalidSetting, errors.InvalidEvent, errors.EventTooLarge, errors.InvalidRead])
def test_bad_input_is_a_value_error_too(kind: type[PipelineError]) -> None:
    assert issubclass(kind, ValueError)
