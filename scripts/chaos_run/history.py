"""What the producers' journals and the log of faults say: each event's fate, as far as it can be known from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

from scripts.chaos_run.workload import DELAY

__all__ = ["Acceptance", "Fate", "History", "Loss", "Record", "losses"]

ACCEPTED: Final = frozenset({"accepted", "duplicate"})
REFUSED: Final = frozenset({"invalid", "full", "unsent"})


class Fate(Enum):
    """What must be true of an event at the end."""

    MUST = "must have happened"
    MAY = "may have happened"
    NEVER = "must not have happened"


class Acceptance(NamedTuple):
    """An answer of the pipeline: the event was there some time between sending and answering."""

    sent: float
    answered: float
    disk: bool


class Loss(NamedTuple):
    """Redis forgot what it had accepted between ``since`` and ``until``; ``disk``: also what was on the disk."""

    since: float
    until: float
    disk: bool


@dataclass(slots=True)
class Record:
    """An event, as its producer knows it. ``place`` counts the events of all journals, in order for each producer."""

    id: str
    kind: str
    via: str
    changes: Sequence[Mapping[str, Any]]
    poison: str | None
    owned: str | None
    place: int
    at: float
    acceptances: list[Acceptance] = field(default_factory=list)
    results: set[str] = field(default_factory=set)

    def fate(self, losses: Sequence[Loss]) -> Fate:
        """What must have become of it, given what Redis was made to forget."""
        if any(_survives(acceptance, losses) for acceptance in self.acceptances):
            return Fate.MUST
        if self.results and self.results <= REFUSED:
            return Fate.NEVER
        return Fate.MAY

    @property
    def accepted(self) -> bool:
        """Whether there was an answer that said so."""
        return bool(self.acceptances)

    @property
    def by_client(self) -> bool:
        """Whether it came as a message of a Celery client."""
        return self.via == DELAY


def _survives(acceptance: Acceptance, losses: Sequence[Loss]) -> bool:
    return not any(
        acceptance.answered >= loss.since and acceptance.sent <= loss.until and not (acceptance.disk and not loss.disk)
        for loss in losses
    )


class History:
    """All events of all producers."""

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self.records: dict[str, Record] = {}
        self.known_as: dict[str, str] = {}
        self.lines: dict[str, list[Mapping[str, Any]]] = {}
        for line in lines:
            self._take(line)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records.values())

    def __len__(self) -> int:
        return len(self.records)

    def find(self, event_id: str | None) -> Record | None:
        """The event of this id, or of the id that the pipeline gave it."""
        if event_id is None:
            return None
        return self.records.get(self.known_as.get(event_id, event_id))

    def _take(self, line: Mapping[str, Any]) -> None:
        if "intent" in line:
            event = line["intent"]
            self.records[event] = Record(
                id=event,
                kind=line["kind"],
                via=line["via"],
                changes=line["changes"],
                poison=line["poison"],
                owned=line["owned"],
                place=len(self.records),
                at=line["t"],
            )
        elif "outcome" in line:
            event = line["outcome"]
            record = self.records[event]
            record.results.add(line["result"])
            if line["result"] in ACCEPTED:
                record.acceptances.append(Acceptance(line["t0"], line["t1"], line["disk"]))
            if "known_as" in line:
                self.known_as[line["known_as"]] = event
        else:
            return
        self.lines.setdefault(event, []).append(line)


def losses(faults: Iterable[Mapping[str, Any]]) -> list[Loss]:
    """The times of which Redis was made to forget something, from the log of faults."""
    return [
        Loss(fault["forgot"]["since"], fault["forgot"]["until"], fault["forgot"]["disk"])
        for fault in faults
        if "forgot" in fault
    ]
