"""The pure parts of the benchmarks: loads, medians, goals, pictures, and the documents that show them."""

import random
import re
from collections import Counter
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.clock import Measured, Sample, ratio, side_by_side, take_turns
from pipeline.bench.workload import WORKLOADS, Workload, change
from pipeline.bench.zipfian import THETA, Zipfian
from scripts.benchmark import documents
from scripts.benchmark.flat import Drain, Folding, Poison, Script
from scripts.benchmark.goals import GOALS, TOLERANCE, Goal, judge, of_flat, of_latency, of_ratios
from scripts.benchmark.latency import Latency
from scripts.benchmark.picture import FULL, Bar, Panel, draw
from scripts.benchmark.report import Table, markdown, tables

SVG = "{http://www.w3.org/2000/svg}"


# --- loads


def test_the_zipfian_law_holds_for_every_rank() -> None:
    items, grid = 50, 200_000
    ranks = Zipfian(items)
    found = Counter(ranks.rank((step + 0.5) / grid) for step in range(grid))
    whole = sum(rank**-THETA for rank in range(1, items + 1))
    for rank in range(items):
        assert found[rank] / grid == pytest.approx((rank + 1) ** -THETA / whole, abs=1.5 / grid)


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True), st.floats(0, 3))
def test_every_draw_is_a_rank(items: int, draw_: float, theta: float) -> None:
    assert 0 <= Zipfian(items, theta).rank(draw_) < items


def test_the_greatest_draw_is_the_last_rank() -> None:
    assert Zipfian(3).rank(1 - 2**-53) == 2


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_everybody_writes_the_same_rows(workload: Workload) -> None:
    random.seed(7)
    rows = workload.rows(500)
    random.seed(8)
    assert workload.rows(500) == rows
    assert len(rows) == 500
    assert {len(row) for row in rows} == {len(workload.layout.columns)}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_load_without_repetitions_has_none(workload: Workload) -> None:
    rows = workload.rows(2000)
    places = [list(workload.layout.columns).index(name) for name in workload.layout.key]
    keys = Counter(tuple(row[place] for place in places) for row in rows)
    assert (max(keys.values()) == 1 or not places) == workload.distinct


def test_a_change_adds_what_the_layout_adds_and_sets_the_rest() -> None:
    counters, upserts, _, log = WORKLOADS
    assert change(counters, (7, 1)).add == {"hits": 1}
    assert change(counters, (7, 1)).key == {"id": 7}
    assert change(upserts, (7, 5)).set == {"value": 5}
    assert change(log, ("u1", "login", None)).insert == {"actor": "u1", "action": "login", "at": None}


def test_the_witness_of_a_load_tells_what_was_written() -> None:
    counters, upserts, _, log = WORKLOADS
    assert counters.total([(1, 1), (1, 1)]) == 2
    assert upserts.total([(1, 10), (2, 20)]) == 30
    assert log.total([("a", "b", None)] * 3) == 3
    assert all(value != new for (_, value), (_, new) in zip(upserts.before([(1, 0), (2, 1)]), [(1, 0)], strict=True))


# --- medians


def measured(*seconds: float) -> Measured:
    return Measured([Sample(one, {"Redis": one / 2}) for one in seconds])


def test_a_measurement_is_the_median_of_its_rounds() -> None:
    found = measured(3.0, 1.0, 9.0)
    assert (found.seconds, found.spread, found.cpu) == (3.0, (1.0, 9.0), {"Redis": 1.5})


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratio(measured(2.0, 40.0, 60.0), measured(1.0, 10.0, 2.0)) == (4.0, 2.0, 30.0)


def test_measurements_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> dict[str, Sample]:
        order.append(name)
        return {name: Sample(float(len(order)))}

    said: list[str] = []
    found = take_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2, said.append)
    assert order == ["a", "b", "a", "b"]
    assert said == ["round 1 of 2: a", "round 1 of 2: b", "round 2 of 2: a", "round 2 of 2: b"]
    assert [sample.seconds for sample in found["b"].samples] == [2.0, 4.0]


def test_operations_side_by_side_take_turns_and_each_gets_all_of_its_arguments() -> None:
    calls: list[tuple[str, int]] = []
    found = side_by_side(
        {
            name: (lambda number, name=name: calls.append((name, number)), range(count))  # type: ignore[misc]
            for name, count in (("a", 100), ("b", 50))
        }
    )
    assert found.keys() == {"a", "b"}
    assert Counter(calls) == Counter([("a", number) for number in range(100)] + [("b", number) for number in range(50)])
    assert {name for name, _ in calls[:10]} == {"a", "b"}


# --- goals


@pytest.mark.parametrize(
    ("value", "at_most", "ok"),
    [
        (100.0, True, True),
        (100.0 * TOLERANCE, True, True),
        (115.1, True, False),
        (100.0, False, True),
        (100.0 / TOLERANCE, False, True),
        (86.9, False, False),
        (0.0, True, True),
    ],
)
def test_a_goal_is_failed_by_more_than_15_percent(value: float, at_most: bool, ok: bool) -> None:  # noqa: FBT001
    assert judge(Goal("g", 100.0, at_most=at_most), value).ok is ok


def test_what_is_not_measured_is_neither_reached_nor_missed() -> None:
    line = judge(GOALS["batches"], None, why="no network")
    assert (line.ok, line.why) == (None, "no network")


def test_goals_are_judged_by_ratios_of_the_run() -> None:
    names = (
        "SET", "write", "apply_event.delay", "write_many: upserts", "drain: upserts", "drain of delay(): upserts",
        "stock task per row: upserts", "celery-batches: upserts", "COPY: flights", "drain: flights",
        "read, hit", "HGETALL",
    )  # fmt: skip
    found = {name: measured(1.0) for name in names}
    found |= {"drain: flights": measured(4.0), "stock task per row: upserts": measured(120.0), "write": measured(1.5)}
    lines = of_ratios(found, {"celery-batches: upserts": "no network"})
    assert (lines["copy"].value, lines["copy"].ok) == (25.0, False)
    assert (lines["stock"].value, lines["stock"].ok) == (120.0, True)
    assert (lines["write"].value, lines["write"].ok) == (1.5, True)
    assert (lines["batches"].value, lines["batches"].why) == (None, "no network")


def test_the_latency_is_judged_at_a_thousand_events_a_second_and_beyond_the_flush_interval() -> None:
    found = [Latency(rate, 1, 1, 1.0, 0.5, p99, 9.0) for rate, p99 in ((100.0, 9.0), (1000.0, 2.2), (None, 9.0))]
    line = of_latency(found, flush_interval_seconds=2.0)["latency"]
    assert line.value == pytest.approx(200.0)
    assert line.ok


def test_what_must_stay_flat_is_the_largest_backlog_against_the_smallest() -> None:
    small = Drain(10, 900.0, 1.0, 2.0, 1.0, 60_000_000, 70_000_000, Script("claim", 1, 0.04, 0.1), 0.002)
    large = Drain(1000, 800.0, 1.0, 3.0, 1.0, 60_000_000, 90_000_000, Script("claim", 1, 0.02, 0.1), 0.004)
    lines = of_flat([small, large], Folding(100, 10, 20), Poison(3000, 1, 1, 18))
    assert {name: line.value for name, line in lines.items()} == {
        "cost": 1.5, "memory": 90.0, "bytes": 900.0, "rows": 0.2, "savepoints": 18, "transactions": 1, "script": 4.0,
    }  # fmt: skip
    assert [name for name, line in lines.items() if not line.ok] == ["cost"]
    assert lines["cost"].why == "1,000 against 10"


def test_every_goal_is_judged_by_one_part_of_a_run() -> None:
    kept = documents.read(documents.RUN)
    assert [line.name for line in kept.lines] == [goal.name for goal in GOALS.values()]


# --- pictures and documents


def test_an_event_keeps_as_many_cores_busy_at_a_million_a_second_as_it_takes_microseconds() -> None:
    (scale,) = [table for table in tables(documents.read(documents.RUN)) if table.name == "scale"]
    assert len(scale.rows) == 5
    for _, microseconds, cores in scale.rows:
        assert float(cores) == pytest.approx(float(microseconds), abs=0.56)  # both are rounded


def test_a_table_in_a_document_has_a_rule_and_numbers_flush_right() -> None:
    assert markdown(Table("n", "t", ("", "µs"), [("a", "1")])) == "|  | µs |\n| --- | ---: |\n| a | 1 |"


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=8))
def test_bars_are_in_proportion_to_what_they_show(values: list[float]) -> None:
    svg = ET.fromstring(draw("t", [Panel("p", [Bar("b", value, "") for value in values])]))  # noqa: S314
    widths = [float(bar.attrib["width"]) for bar in svg.iter(f"{SVG}rect")]
    assert widths == pytest.approx([FULL * value / max(values) for value in values], abs=0.051)


def test_panels_are_drawn_to_their_own_scales_and_text_is_escaped() -> None:
    panels = [Panel("a < b", [Bar("<x>", 1, "1")]), Panel("c", [Bar("y & z", 1000, "1,000")])]
    svg = ET.fromstring(draw("t", panels))  # noqa: S314
    assert [float(bar.attrib["width"]) for bar in svg.iter(f"{SVG}rect")] == [FULL, FULL]
    assert [text.text for text in svg.iter(f"{SVG}text")] == ["a < b", "<x>", "1", "c", "y & z", "1,000"]


def test_the_documents_show_the_run_that_is_kept_beside_them() -> None:
    for path, text in documents.documents(documents.read(documents.RUN)):
        assert path.read_text("utf-8") == text, f"{path.name}: scripts/bench --from {documents.RUN.name} --write-docs"


def test_the_document_about_performance_shows_every_table_of_a_run() -> None:
    shown = re.findall(r"<!-- bench: (\w+) -->", documents.DOCUMENT.read_text("utf-8"))
    assert sorted(shown) == sorted(["run", *(table.name for table in tables(documents.read(documents.RUN)))])
