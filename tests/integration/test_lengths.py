"""A value that is too long for its column is refused, whichever way it takes, and never cut off."""

from typing import Any

import pytest

from pipeline import Change, ChangeRefused, Outcome
from pipeline.store import bulk
from tests.integration.scene import Scene, drain

LONG = {"v": "abcdefghij", "c": "abcd", "b": "10101", "vb": "10101"}
SHAPES = [
    *({column: value} for column, value in LONG.items()),
    {"vs": ["abc", "abcdef"]},
    {"vs": [["abc"], ["abcdef"]]},
    {"d": "abcdefghij"},
]


@pytest.fixture
def table(scene: Scene) -> Scene:
    scene.sql("CREATE DOMAIN short AS varchar(5)")
    scene.sql(
        "CREATE TABLE t (k varchar(4) PRIMARY KEY, n int, v varchar(5), c char(3), b bit(3), vb varbit(3), "
        "vs varchar(3)[], d short)"
    )
    scene.sql("INSERT INTO t (k, n) VALUES ('abcd', 1), ('ijkl', 1)")
    return scene


@pytest.mark.parametrize("values", SHAPES)
@pytest.mark.parametrize("inserts", [False, True])
def test_a_value_that_is_too_long_is_not_written_through(
    table: Scene, values: dict[str, Any], *, inserts: bool
) -> None:
    pipeline = table.pipeline()
    change: dict[str, Any] = {"insert": {"k": "new", **values}} if inserts else {"key": {"k": "new"}, "set": values}
    with pytest.raises(ChangeRefused) as caught:
        pipeline.write_through("t", **change)
    assert caught.value.sqlstate in {"22001", "22026", None}
    assert table.sql("SELECT count(*) FROM t") == [(2,)]


def test_a_key_that_is_too_long_is_no_other_rows_key(table: Scene) -> None:
    pipeline = table.pipeline()
    with pytest.raises(ChangeRefused):
        pipeline.write_through("t", {"k": "abcdEFG"}, set={"n": 6})
    pipeline.write_through("t", {"k": "ijklEFG"}, delete=True)
    assert table.sql("SELECT k, n FROM t ORDER BY k") == [("abcd", 1), ("ijkl", 1)]
    pipeline.write("t", {"k": "abcdEFG"}, set={"n": 7})
    assert pipeline.read("t", {"k": "abcdEFG"}) is None
    assert pipeline.read("t", {"k": "abcd"}) == {"k": "abcd", "n": 1, **dict.fromkeys([*LONG, "vs", "d"])}


@pytest.mark.parametrize("values", SHAPES)
def test_a_value_that_will_be_a_dead_letter_is_not_read(table: Scene, values: dict[str, Any]) -> None:
    pipeline = table.pipeline()
    receipt = pipeline.write("t", {"k": "abcd"}, set=values)
    row = pipeline.read("t", {"k": "abcd"}) or {}
    assert [row[column] for column in values] == [None]
    drain(pipeline)
    assert receipt.outcome() == Outcome.DEAD


def test_a_value_that_fits_is_written_and_read_in_every_way(table: Scene) -> None:
    values = {"v": "abcde", "c": "ab ", "b": "101", "vb": "10", "vs": ["abc"], "d": "abcde"}
    pipeline = table.pipeline()
    pipeline.write("t", {"k": "abcd"}, set=values)
    pending = pipeline.read("t", {"k": "abcd"})
    drain(pipeline)
    pipeline.write_through("t", {"k": "ijkl"}, set=values)
    assert pending == {"k": "abcd", "n": 1, **values}
    assert pipeline.read("t", {"k": "ijkl"}) == {"k": "ijkl", "n": 1, **values}


def test_a_flush_without_room_for_another_temporary_table_cuts_nothing_off(
    table: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_STAGES", 0)
    pipeline = table.pipeline()
    bad, good = pipeline.write_many(
        [
            Change("t", {"k": "abcd"}, set={"v": "abcdefghij"}),
            Change("t", {"k": "ijkl"}, set={"v": "abcde"}),
        ]
    )
    drain(pipeline)
    assert (bad.outcome(), good.outcome()) == (Outcome.DEAD, Outcome.APPLIED)
    assert table.sql("SELECT k, v FROM t ORDER BY k") == [("abcd", None), ("ijkl", "abcde")]
