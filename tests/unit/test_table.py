"""The order of tables by their foreign keys."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.table import depths

pairs = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda pair: pair[0] != pair[1]), max_size=30)


def test_a_table_that_references_nothing_comes_first() -> None:
    assert depths([]) == {}
    assert depths([(2, 1)]) == {1: 0, 2: 1}


def test_a_table_is_deeper_than_the_deepest_that_it_references() -> None:
    assert depths([(4, 3), (3, 2), (2, 1), (4, 1), (5, 1)]) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}


def ancestors(table: int, references: list[tuple[int, int]]) -> set[int]:
    """Every table that one comes to by following references."""
    found: set[int] = set()
    waiting = [table]
    while waiting:
        above = {parent for child, parent in references if child == waiting[-1]} - found
        waiting = [*waiting[:-1], *above]
        found |= above
    return found


@given(pairs)
def test_a_table_is_deeper_than_its_parents_unless_they_are_in_a_cycle(references: list[tuple[int, int]]) -> None:
    found = depths(references)
    for child, parent in references:
        assert found[child] > found[parent] or child in ancestors(parent, references)


@given(pairs)
def test_whatever_there_are_of_cycles_a_depth_is_less_than_the_number_of_tables(
    references: list[tuple[int, int]],
) -> None:
    found = depths(references)
    assert set(found) == {table for pair in references for table in pair}
    assert all(0 <= depth < len(found) for depth in found.values())


def test_a_table_outside_of_a_cycle_is_deeper_than_those_in_it() -> None:
    found = depths([(1, 2), (2, 1), (3, 1), (3, 2)])
    assert found[3] > max(found[1], found[2])
