"""Any `Buffer`: tables and columns are paused apart from each other, and rows on which something waits are held."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest

from pipeline.core.change import Change
from pipeline.ports import Buffer, Claimed, PausedTable
from tests.conformance.conftest import MakeBuffer
from tests.conformance.lane import accept, acknowledge, claimed, names_of

ODD = ["views", "shop.views", '"a:b"', '"a"', '"a.b"', '"say ""a"""']
COLUMNS = [None, "n", "a:b", "a", ".", '"', "n\nn", "ä 🙂"]


def paused(table: str, column: str | None = None, probes: int = 0) -> PausedTable:
    return PausedTable(table, 100.0, f"no {table}", b"{}", probes, column=column)


def named(buffer: Buffer) -> set[tuple[str, str | None]]:
    return {(one.table, one.column) for one in buffer.states()[0].paused}


def set_aside(buffer: Buffer, claim: Claimed, names: Collection[str]) -> None:
    """Acknowledge the claim, and set those events of it aside that are in ``names``."""
    assert acknowledge(buffer, claim, aside=names)


def test_what_is_paused_is_told_as_it_was_paused_however_it_is_called(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    everything = set(itertools.product(ODD, COLUMNS))
    for table, column in everything:
        buffer.pause(0, paused(table, column))
    assert named(buffer) == everything
    for table, column in sorted(everything, key=str)[::2]:
        assert buffer.resume(0, paused(table, column))
        everything.remove((table, column))
    assert named(buffer) == everything
    accept(buffer, "a")
    assert {(one.table, one.column) for one in claimed(buffer).paused} == everything


def test_probes_in_vain_are_remembered_of_a_table_and_of_its_columns_apart(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    for probes, column in enumerate([None, "a", "b"], start=1):
        buffer.pause(0, paused("views", column))
        assert buffer.resume(0, paused("views", column, probes))
    assert [buffer.probed(0, "views", column) for column in (None, "a", "b", "c")] == [1, 2, 3, 0]


def test_what_is_resumed_twice_was_resumed_once(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    buffer.pause(0, paused("views", "n"))
    assert not buffer.resume(0, paused("views"))
    assert buffer.resume(0, paused("views", "n"))
    assert not buffer.resume(0, paused("views", "n"))


@pytest.mark.parametrize(("column", "expected"), [("n", {"views:page=1"}), (None, set())], ids=["column", "table"])
def test_the_rows_of_what_is_set_aside_are_held_unless_their_whole_table_is_paused(
    make_buffer: MakeBuffer, column: str | None, expected: set[str]
) -> None:
    buffer = make_buffer()
    accept(buffer, "a")
    accept(buffer, "b", Change("views", {"page": 2}))
    claim = claimed(buffer)
    buffer.pause(0, paused("views", column), claim)
    set_aside(buffer, claim, "a")
    accept(buffer, "c")
    again = claimed(make_buffer())
    assert names_of(again) == ["c"]
    assert again.held == len(expected)
    rows = [f"views:page={page}" for page in range(2500)]
    assert buffer.held(again, rows) == expected
    assert buffer.held(again, []) == frozenset()


def test_nothing_is_held_any_more_when_what_was_set_aside_comes_back(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer()
    accept(buffer, "ab")
    claim = claimed(buffer)
    buffer.pause(0, paused("views", "n"), claim)
    set_aside(buffer, claim, "ab")
    assert buffer.resume(0, paused("views", "n"))
    again = claimed(buffer)
    assert (names_of(again), again.held) == (["a", "b"], 0)


def test_what_is_set_aside_for_no_pause_that_is_known_comes_back_before_what_is_newer(make_buffer: MakeBuffer) -> None:
    buffer = make_buffer(batch_size=2)
    buffer.pause(0, paused("views", "typo"))
    accept(buffer, "abc")
    claim = claimed(buffer)
    assert acknowledge(buffer, claim, aside=names_of(claim), unexplained=True)
    again = claimed(buffer)
    assert (names_of(again), again.resumed, again.held) == (["a", "b"], True, 0)
    assert named(buffer) == {("views", "typo")}
