"""Compares what the producers know with what is in Postgres: nothing lost, nothing doubled, nothing out of order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple

from scripts.chaos_run.evidence import Evidence
from scripts.chaos_run.history import Fate, History, Loss, Record
from scripts.chaos_run.model import Tables, digits, replay

__all__ = ["LAWS", "Verdict", "Violation", "check"]

LAWS: Final = ("lost", "doubled", "order", "sum", "poison", "stranger", "not drained")
"""What can be violated; ``stranger`` is something in Postgres that nobody wrote."""


FEW: Final = 3


class Violation(NamedTuple):
    """A law that was not kept. ``records`` are the events concerned; ``at`` is when the first of them was written."""

    law: str
    text: str
    records: Sequence[Record]
    at: float


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    ``forgotten``: accepted, and lost with the memory of Redis, as the fault allows; ``when_killed`` of them were lost
    though nothing came back but what SIGKILL had left: the last second or two. ``in_transport``: messages of a
    Celery client that were lost on the way between its queue and a worker, of which there may be as many as allowed.
    ``late``: dead letters because a worker that consumed a shard queue was killed while it held them.
    """

    violations: list[Violation] = field(default_factory=list)
    applied: int = 0
    dead: int = 0
    forgotten: int = 0
    when_killed: int = 0
    uncertain: int = 0
    refused: int = 0
    late: int = 0
    in_transport: list[Record] = field(default_factory=list)

    @property
    def first(self) -> Violation | None:
        """The violation that happened first."""
        return min(self.violations, key=lambda violation: violation.at, default=None)

    def found(self, law: str, text: str, *records: Record) -> None:
        """Note a violation."""
        at = min((record.at for record in records), default=float("inf"))
        self.violations.append(Violation(law, text, records, at))


def check(history: History, evidence: Evidence, losses: Sequence[Loss], *, transport_losses: int) -> Verdict:
    """Compare. ``transport_losses``: how many messages of Celery clients may be lost on their way to a worker."""
    return _Checker(history, evidence, losses, transport_losses).run()


class _Checker:
    def __init__(self, history: History, evidence: Evidence, losses: Sequence[Loss], transport_losses: int) -> None:
        self._history = history
        self._evidence = evidence
        self._losses = losses
        self._transport_losses = transport_losses
        self._verdict = Verdict()
        self._dead = dict.fromkeys(history.records, 0)
        self._hidden = _hidden(history)

    def run(self) -> Verdict:
        """Everything, in an order in which each check may rely on the ones before."""
        self._count_dead_letters()
        self._look_for_strangers()
        cells: dict[str, list[Record]] = {}
        applied: list[Record] = []
        lost_in_transport: list[Record] = []
        for record in self._history:
            self._check_dead(record)
            if record.kind.startswith("cell"):
                cells.setdefault(record.owned or "", []).append(record)
                continue
            times = self._evidence.applied[record.id]
            if times:
                applied.append(record)
            self._check_applied(record, times, lost_in_transport)
        for key, records in cells.items():
            self._check_cell(key, records)
        self._check_transport(lost_in_transport)
        self._compare_tables(applied)
        return self._verdict

    # --- event by event

    def _count_dead_letters(self) -> None:
        for event, count in self._evidence.dead.items():
            record = self._history.find(event)
            if record is None:
                self._verdict.found("stranger", f"a dead letter of the event {event}, which nobody wrote")
            else:
                self._dead[record.id] += count
        if self._evidence.dead_without_id:
            self._verdict.found("stranger", f"{self._evidence.dead_without_id} dead letters without an event id")

    def _look_for_strangers(self) -> None:
        for event in self._evidence.applied.keys() - self._history.records.keys():
            self._verdict.found("stranger", f"the event {event} was applied, which nobody wrote")

    def _check_dead(self, record: Record) -> None:
        dead = self._dead[record.id]
        if dead and record.id in self._evidence.late:
            self._verdict.late += 1
        elif dead and record.poison is None:
            self._verdict.found("poison", f"{record.id} ({record.kind}) is good and is a dead letter", record)
        if dead > 1:
            self._verdict.found("doubled", f"{record.id} is a dead letter {dead} times", record)
        self._verdict.dead += dead

    def _check_applied(self, record: Record, times: int, lost_in_transport: list[Record]) -> None:
        verdict, fate, dead = self._verdict, record.fate(self._losses), self._dead[record.id]
        verdict.applied += times > 0
        if times > 1:
            verdict.found("doubled", f"{record.id} ({record.kind}) was applied {times} times", record)
        if times and dead:
            verdict.found("doubled", f"{record.id} ({record.kind}) was applied and is a dead letter", record)
        if times and record.poison and record.id not in self._hidden:
            verdict.found("poison", f"{record.id} ({record.kind}) is poison ({record.poison}) and was applied", record)
        if fate is Fate.NEVER:
            verdict.refused += 1
            if times or dead:
                verdict.found("stranger", f"{record.id} ({record.kind}) was refused and took effect", record)
        elif not times and not dead:
            self._missing(record, fate, lost_in_transport)

    def _missing(self, record: Record, fate: Fate, lost_in_transport: list[Record]) -> None:
        if fate is Fate.MUST:
            if record.by_client:
                lost_in_transport.append(record)
            else:
                self._verdict.found("lost", f"{record.id} ({record.kind}) was accepted and is gone", record)
        elif record.accepted:
            self._forget(record)
        else:
            self._verdict.uncertain += 1

    def _forget(self, record: Record) -> None:
        self._verdict.forgotten += 1
        self._verdict.when_killed += record.fate([loss for loss in self._losses if loss.disk]) is Fate.MUST

    def _check_transport(self, lost: Sequence[Record]) -> None:
        self._verdict.in_transport = list(lost)
        if len(lost) > self._transport_losses:
            self._verdict.found(
                "lost",
                f"{len(lost)} messages of Celery clients are gone, with {self._transport_losses} disturbances of "
                "their transport",
                *lost,
            )

    # --- cells

    def _check_cell(self, key: str, records: Sequence[Record]) -> None:
        """A cell's events are told by its tally; its last event may be a delete."""
        row = self._evidence.cell.get(key)
        deletes = [record for record in records if record.kind == "cell delete"]
        writes = {_index(record): record for record in records if record.kind == "cell"}
        fates = {record.id: record.fate(self._losses) for record in records}
        if row is None:
            self._check_missing_cell(key, writes, deletes, fates)
            return
        for record in deletes:
            if fates[record.id] is Fate.MUST:
                self._verdict.found("lost", f"the row {key} is there, and its delete {record.id} was accepted", record)
        times = digits(int(row["tally"]))
        if not times.keys() <= writes.keys() or sum(times.values()) != row["ops"]:
            text = f"the row {key} has {_shown(row)}, which no {len(writes)} events of it can make"
            self._verdict.found("doubled", text, *records)
            return
        for index, record in writes.items():
            self._check_write_of_cell(record, times.get(index, 0), fates[record.id])
        if row["last"] != max(times, default=None):
            text = f"the row {key} was last written by {row['last']}, and {max(times, default=None)} was applied after"
            self._verdict.found("order", text, *records)

    def _check_write_of_cell(self, record: Record, times: int, fate: Fate) -> None:
        verdict, dead = self._verdict, self._dead[record.id]
        verdict.applied += times > 0
        if times > 1:
            verdict.found("doubled", f"{record.id} (cell) was applied {times} times", record)
        if times and (dead or record.poison):
            verdict.found("poison", f"{record.id} (cell) was applied; poison: {record.poison}, dead: {dead}", record)
        if fate is Fate.NEVER and times:
            verdict.found("stranger", f"{record.id} (cell) was refused and took effect", record)
        verdict.refused += fate is Fate.NEVER
        if fate is not Fate.NEVER and not times and not dead:
            self._missing(record, fate, [])

    def _check_missing_cell(
        self, key: str, writes: Mapping[int, Record], deletes: Sequence[Record], fates: Mapping[str, Fate]
    ) -> None:
        deleted = any(fates[record.id] is not Fate.NEVER for record in deletes)
        self._verdict.applied += len(deletes) if deleted else 0
        for record in writes.values():
            fate, dead = fates[record.id], self._dead[record.id]
            if fate is Fate.MUST and record.poison and not dead and record.id not in self._hidden:
                self._verdict.found("lost", f"{record.id} (cell, poison) was accepted and is gone", record)
            elif fate is Fate.MUST and not record.poison and not deleted:
                self._verdict.found("lost", f"{record.id} was accepted, and its row {key} is not there", record)
            elif fate is not Fate.NEVER and not dead:
                self._verdict.applied += deleted
                if not deleted:
                    self._missing(record, Fate.MAY, [])

    # --- tables

    def _compare_tables(self, applied: Iterable[Record]) -> None:
        """Replay what was applied, in each producer's order, and compare row by row."""
        records = sorted(applied, key=lambda record: record.place)
        expected = replay(record for record in records if not record.poison)
        evidence = self._evidence
        found: Tables = {
            "profile": {(key,): dict(row) for key, row in evidence.profile.items()},
            "counter": {(key,): dict(row) for key, row in evidence.counter.items()},
            "stock": {key: dict(row) for key, row in evidence.stock.items()},
            "orders": {(key,): {"total": total} for key, total in evidence.orders.items()},
            "item": {key: {"quantity": quantity} for key, quantity in evidence.item.items()},
        }
        touching: dict[tuple[str, Any], list[Record]] = {}
        for record in records:
            for change in record.changes:
                if "key" in change:
                    touching.setdefault((change["table"], tuple(change["key"].values())), []).append(record)
        for table, rows in expected.items():
            for key in sorted(rows.keys() | found[table].keys()):
                self._compare_row(table, key, rows.get(key), found[table].get(key), touching.get((table, key), []))

    def _compare_row(
        self,
        table: str,
        key: tuple[Any, ...],
        expected: Mapping[str, Any] | None,
        found: Mapping[str, Any] | None,
        records: Sequence[Record],
    ) -> None:
        if found is not None and expected is not None:
            if wrong := [column for column in expected if expected[column] != found[column]]:
                law = "order" if table == "profile" and "note" in wrong else "sum"
                differences = ", ".join(f"{name} is {found[name]}, not {expected[name]}" for name in wrong)
                suspects = _suspects(records, table, key, {name: (expected[name], found[name]) for name in wrong})
                self._verdict.found(law, f"{table} {key}: {differences}", *(suspects or records))
        elif found is not None or expected is not None:
            law = "order" if records else "stranger"
            there = "there" if found is not None else "missing"
            self._verdict.found(law, f"{table} {key} is {there}, and its events say otherwise", *records)


def _hidden(history: History) -> set[str]:
    """Poison that a later delete of its row may hide: in one batch, only the delete reaches Postgres."""
    hidden = set()
    doomed: set[str] = set()
    for record in sorted(history, key=lambda record: -record.place):
        if record.owned in doomed and record.poison:
            hidden.add(record.id)
        if record.owned and record.kind.endswith("delete") and record.fate(()) is not Fate.NEVER:
            doomed.add(record.owned)
    return hidden


def _suspects(
    records: Sequence[Record], table: str, key: tuple[Any, ...], wrong: Mapping[str, tuple[Any, Any]]
) -> Sequence[Record]:
    """Events that alone could explain what is wrong: their increments are just what is missing or too much."""
    found = []
    for record in records:
        for change in record.changes:
            added = change.get("add", {})
            if (
                change["table"] == table
                and tuple(change.get("key", {}).values()) == key
                and wrong.keys() <= added.keys()
            ):
                differences = {abs(is_ - should) == abs(Decimal(added[name])) for name, (should, is_) in wrong.items()}
                if differences == {True}:
                    found.append(record)
    return found[:FEW]


def _index(record: Record) -> int:
    (change,) = record.changes
    index: int = change["set"]["last"]
    return index


def _shown(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if name != "key")
