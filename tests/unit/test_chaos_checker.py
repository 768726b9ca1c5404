"""The chaos runner's checker finds what is wrong, and only that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from scripts.chaos_run.check import Verdict, check
from scripts.chaos_run.evidence import Evidence
from scripts.chaos_run.history import Fate, History, Loss
from scripts.chaos_run.model import digits
from scripts.chaos_run.options import parse
from scripts.chaos_run.workload import CELL_EVENTS, DELAY, DOOR, GROUP, LATE_COLUMN, MANY, Planned, Workload

PROFILE = {"note": "new", "score": 0, "amount": Decimal(0), "hi": None, "lo": None}
NOTHING = Evidence(Counter(), Counter(), 0, {}, {}, {}, {}, {}, {})


class Story:
    """Events as producers' journals tell them, one second after another."""

    def __init__(self) -> None:
        self._lines: list[Mapping[str, Any]] = []
        self._clock = 0.0

    def event(
        self,
        event: str,
        *changes: Mapping[str, Any],
        kind: str = "profile",
        via: str = GROUP,
        poison: str | None = None,
        owned: str | None = None,
        results: Sequence[str] = ("accepted",),
        known_as: str | None = None,
        disk: bool = False,
    ) -> None:
        self._clock += 1.0
        record = Planned(event, kind, via, [dict(change) for change in changes], None, poison, disk, owned).record
        self._lines.append({**record, "t": self._clock})
        for result in results:
            line = {"outcome": event, "result": result, "t0": self._clock, "t1": self._clock + 0.5, "disk": disk}
            self._lines.append({**line, **({"known_as": known_as} if known_as else {})})

    def cell(self, event: str, index: int, **options: Any) -> None:
        change = {"table": "cell", "key": {"key": "c"}, "set": {"last": index}, "add": {"tally": 4**index, "ops": 1}}
        self.event(event, change, kind="cell", owned="c", **options)

    @property
    def history(self) -> History:
        return History(self._lines)

    def check(self, evidence: Evidence, losses: Sequence[Loss] = (), transport_losses: int = 0) -> Verdict:
        return check(self.history, evidence, losses, transport_losses=transport_losses)


def profile(**parts: Any) -> dict[str, Any]:
    return {"table": "profile", "key": {"key": "k"}, **parts}


def laws(verdict: Verdict) -> list[str]:
    return [violation.law for violation in verdict.violations]


def applied(*events: str, **tables: Any) -> Evidence:
    return NOTHING._replace(applied=Counter(events), **tables)


# --- events


def test_an_event_that_was_applied_once_is_fine() -> None:
    story = Story()
    story.event("a", profile(set={"note": "x"}))
    assert laws(story.check(applied("a", profile={"k": {**PROFILE, "note": "x"}}))) == []


def test_an_accepted_event_that_is_nowhere_is_lost() -> None:
    story = Story()
    story.event("a", profile(set={"note": "x"}))
    assert laws(story.check(NOTHING)) == ["lost"]


def test_an_event_that_stands_twice_in_the_witnesses_is_doubled() -> None:
    story = Story()
    story.event("a", kind="audit")
    assert laws(story.check(applied("a", "a"))) == ["doubled"]


def test_an_event_that_is_applied_and_dead_is_doubled() -> None:
    story = Story()
    story.event("a", kind="audit", poison="check")
    assert "doubled" in laws(story.check(applied("a")._replace(dead=Counter(["a"]))))


@pytest.mark.parametrize(("dead", "expected"), [(["a"], []), (["a", "a"], ["doubled"]), ([], ["lost"])])
def test_poison_becomes_a_dead_letter_once(dead: list[str], expected: list[str]) -> None:
    story = Story()
    story.event("a", kind="audit", poison="not null")
    assert laws(story.check(NOTHING._replace(dead=Counter(dead)))) == expected


def test_a_good_event_that_is_a_dead_letter_is_a_violation() -> None:
    story = Story()
    story.event("a", kind="audit")
    assert laws(story.check(NOTHING._replace(dead=Counter(["a"])))) == ["poison"]


def test_poison_that_was_applied_is_a_violation() -> None:
    story = Story()
    story.event("a", kind="audit", poison="not null")
    assert laws(story.check(applied("a"))) == ["poison"]


def test_poison_that_a_later_delete_hides_may_count_as_applied() -> None:
    story = Story()
    story.event("a", profile(set={"label": None}), poison="not null", owned="k")
    assert laws(story.check(applied("a"))) == ["poison"]
    story.event("b", profile(delete=True), kind="profile delete", owned="k")
    assert laws(story.check(applied("a", "b"))) == []
    assert laws(story.check(applied("b")._replace(dead=Counter(["a"])))) == []
    assert laws(story.check(applied("b"))) == ["lost"]


def test_a_dead_letter_is_known_by_the_id_that_the_pipeline_gave_it() -> None:
    story = Story()
    story.event("a", kind="audit", poison="check", via=MANY, known_as="uuid")
    assert laws(story.check(NOTHING._replace(dead=Counter(["uuid"])))) == []


def test_what_nobody_wrote_is_a_stranger() -> None:
    assert laws(Story().check(applied("x")._replace(dead=Counter(["y"]), dead_without_id=1))) == ["stranger"] * 3


def test_an_event_that_was_refused_must_not_take_effect() -> None:
    story = Story()
    story.event("a", kind="audit", results=["invalid"])
    assert laws(story.check(NOTHING)) == []
    assert laws(story.check(applied("a"))) == ["stranger"]


@pytest.mark.parametrize("results", [[], ["unknown"]])
@pytest.mark.parametrize("evidence", [NOTHING, applied("a")])
def test_an_event_without_an_answer_may_have_happened_or_not(results: list[str], evidence: Evidence) -> None:
    story = Story()
    story.event("a", kind="audit", results=results)
    assert laws(story.check(evidence)) == []


def test_messages_of_celery_clients_may_be_lost_as_often_as_their_transport_was_disturbed() -> None:
    story = Story()
    story.event("a", kind="audit", via=DELAY)
    story.event("b", kind="audit", via=DELAY)
    assert laws(story.check(NOTHING, transport_losses=2)) == []
    assert laws(story.check(NOTHING, transport_losses=1)) == ["lost"]


def test_the_first_violation_is_that_of_the_event_that_was_written_first() -> None:
    story = Story()
    story.event("a", kind="audit")
    story.event("b", kind="audit")
    first = story.check(applied("b", "b")).first
    assert first is not None
    assert first.text == "a (audit) was accepted and is gone"


# --- what Redis was made to forget


@pytest.mark.parametrize(
    ("loss", "fate"),
    [
        (Loss(0.0, 0.9, disk=True), Fate.MUST),
        (Loss(0.0, 1.2, disk=True), Fate.MAY),
        (Loss(1.4, 9.0, disk=True), Fate.MAY),
        (Loss(1.6, 9.0, disk=True), Fate.MUST),
    ],
)
def test_an_event_may_be_forgotten_only_if_it_was_accepted_in_the_time_that_was_lost(loss: Loss, fate: Fate) -> None:
    story = Story()
    story.event("a", kind="audit")
    assert story.history.records["a"].fate([loss]) is fate


@pytest.mark.parametrize(("disk_lost", "fate"), [(True, Fate.MAY), (False, Fate.MUST)])
def test_what_was_written_to_disk_survives_a_kill_but_not_an_older_file(disk_lost: bool, fate: Fate) -> None:  # noqa: FBT001
    story = Story()
    story.event("a", kind="audit", disk=True)
    assert story.history.records["a"].fate([Loss(0.0, 9.0, disk=disk_lost)]) is fate


def test_an_event_that_was_accepted_again_later_must_be_there() -> None:
    history = History(
        [
            Planned("a", "audit", GROUP, []).record | {"t": 1.0},
            {"outcome": "a", "result": "accepted", "t0": 1.0, "t1": 1.1, "disk": False},
            {"outcome": "a", "result": "duplicate", "t0": 9.0, "t1": 9.1, "disk": False},
        ]
    )
    assert history.records["a"].fate([Loss(0.0, 5.0, disk=True)]) is Fate.MUST


def test_what_was_forgotten_is_counted_by_how() -> None:
    story = Story()
    story.event("a", kind="audit")
    story.event("b", kind="audit")
    verdict = story.check(NOTHING, [Loss(0.0, 1.8, disk=True), Loss(1.9, 3.0, disk=False)])
    assert (laws(verdict), verdict.forgotten, verdict.when_killed) == ([], 2, 1)


# --- rows


def test_the_last_of_an_owned_rows_events_wins() -> None:
    story = Story()
    story.event("a", profile(set={"note": "x"}, add={"score": 2}))
    story.event("b", profile(set={"note": "y"}, add={"score": 3, "amount": "5e-2"}))
    row = {**PROFILE, "score": 5, "amount": Decimal("0.05")}
    assert laws(story.check(applied("a", "b", profile={"k": {**row, "note": "y"}}))) == []
    assert laws(story.check(applied("a", "b", profile={"k": {**row, "note": "x"}}))) == ["order"]


def test_a_write_after_a_delete_starts_from_nothing() -> None:
    story = Story()
    story.event("a", profile(add={"score": 2}))
    story.event("b", profile(delete=True), kind="profile delete")
    story.event("c", profile(add={"score": 5}, max={"hi": 3}, min={"lo": -1}))
    row = {**PROFILE, "score": 5, "hi": 3, "lo": -1}
    assert laws(story.check(applied("a", "b", "c", profile={"k": row}))) == []
    assert laws(story.check(applied("a", "b", "c", profile={"k": {**row, "score": 7}}))) == ["sum"]
    assert laws(story.check(applied("a", "b", "c"))) == ["order"]


def test_a_wrong_sum_is_blamed_on_the_event_that_explains_it() -> None:
    story = Story()
    for number in range(20):
        story.event(f"e{number}", {"table": "counter", "key": {"id": 1}, "add": {"n": 2**number}}, kind="counters")
    found = {1: {"n": 2**20 - 1 - 2**7, "hi": None, "lo": None}}
    verdict = story.check(applied(*(f"e{number}" for number in range(20)), counter=found))
    assert laws(verdict) == ["sum"]
    assert [record.id for record in verdict.violations[0].records] == ["e7"]


def test_a_row_of_several_keys_is_found_by_all_of_them() -> None:
    story = Story()
    change = {"table": "stock", "key": {"site": "s", "sku": 3}, "add": {"amount": "150e-2", "moves": 1}}
    story.event("a", change, kind="counters")
    assert laws(story.check(applied("a", stock={("s", 3): {"amount": Decimal("1.5"), "moves": 1}}))) == []


# --- cells


def cell(times: Mapping[int, int], last: int | None) -> Evidence:
    tally = sum(4**index * count for index, count in times.items())
    return NOTHING._replace(cell={"c": {"key": "c", "tally": tally, "ops": sum(times.values()), "last": last}})


def test_a_cells_tally_tells_how_often_each_event_was_applied() -> None:
    assert digits(4**0 + 2 * 4**3) == {0: 1, 3: 2}
    assert 3 * 4 ** (CELL_EVENTS - 1) < 2**63


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (cell({0: 1, 1: 1}, 1), []),
        (cell({0: 1}, 0), ["lost"]),
        (cell({0: 1, 1: 2}, 1), ["doubled"]),
        (cell({0: 1, 1: 1}, 0), ["order"]),
        (cell({0: 1, 1: 1, 2: 1}, 2), ["doubled"]),
        (NOTHING, ["lost", "lost"]),
    ],
)
def test_a_cell_shows_what_happened_to_it(evidence: Evidence, expected: list[str]) -> None:
    story = Story()
    story.cell("a", 0)
    story.cell("b", 1)
    assert laws(story.check(evidence)) == expected


def test_a_cell_that_was_deleted_is_gone() -> None:
    story = Story()
    story.cell("a", 0)
    story.event("b", {"table": "cell", "key": {"key": "c"}, "delete": True}, kind="cell delete", owned="c")
    assert laws(story.check(NOTHING)) == []
    assert laws(story.check(cell({0: 1}, 0))) == ["lost"]


# --- the workload


def test_the_same_seed_gives_the_same_events() -> None:
    one, other = (Workload("p", Random(5)) for _ in range(2))  # noqa: S311
    assert [one.batch(50) for _ in range(5)] == [other.batch(50) for _ in range(5)]


def test_the_workload_has_every_kind_and_way_and_poison() -> None:
    workload = Workload("p", Random(1))  # noqa: S311
    events = [event for _ in range(200) for event in workload.batch(50)]
    assert len({event.id for event in events}) == len(events)
    kinds = {"cell", "cell delete", "audit", "profile", "profile delete", "counters", "order"}
    assert {event.kind for event in events} == kinds
    assert {event.via for event in events} == {"single", "group", "many", "delay"}
    assert {event.poison for event in events} == {None, "not null", "check", "type", "too long", DOOR}
    late = [event for event in events if LATE_COLUMN in event.changes[0].get("insert", {})]
    assert {event.kind for event in late} == {"audit"}, "no row of another event waits for it"
    poisoned = sum(event.poison is not None for event in events)
    assert 0.003 < poisoned / len(events) < 0.02


def test_a_row_that_was_retired_is_never_written_again() -> None:
    workload = Workload("p", Random(1))  # noqa: S311
    owned = {event.owned for event in workload.batch(50)} - {None}
    for key in owned:
        workload.retire(str(key))
    assert owned.isdisjoint({event.owned for _ in range(20) for event in workload.batch(50)})


# --- the command line


@pytest.mark.parametrize(
    "words", [["--faults", "nonsense"], ["--minutes", "0"], ["--minutes", "nan"], ["--shards", "0"], ["--see", "1"]]
)
def test_wrong_usage_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words, ["redis_cut"])
    assert ended.value.code == 2
    assert "scripts/chaos --help" in capsys.readouterr().err


def test_kinds_of_faults_are_chosen_by_name() -> None:
    options = parse(["--faults", "redis_cut,redis_deaf", "--seed", "x"], ["redis_cut", "redis_deaf"])
    assert (options.faults, options.seed, options.app) == (("redis_cut", "redis_deaf"), "x", "tasks")
