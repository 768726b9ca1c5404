"""What an application of the pipeline would write: the events of one producer, drawn from its seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

__all__ = ["CELL_EVENTS", "DELAY", "DOOR", "GROUP", "LANES", "LATE_COLUMN", "MANY", "SINGLE", "Planned", "Workload"]

LANES: Final = 16
ROWS: Final = 4
"""Shared rows of a table in each lane."""

CELL_EVENTS: Final = 30
"""Most events of a cell: each has two bits of ``cell.tally``."""

CELLS: Final = 12
PROFILES: Final = 12
POISON_SHARE: Final = 0.01
DISK_SHARE: Final = 0.02
"""Such a write waits for the next fsync, which comes every second."""
DELETE_SHARE: Final = 0.08
LATE_SHARE: Final = 0.2
LATE_COLUMN: Final = "later"
"""A column of ``audit`` that is added when all is over. What names it waits until then, and nothing else does."""

SINGLE, GROUP, MANY, DELAY = "single", "group", "many", "delay"
"""How an event is written: by itself, by write_group, by write_many, by a Celery client."""

DOOR: Final = "refused at the door"
_POISON: Final[dict[str, dict[str, Any]]] = {
    "not null": {"label": None},
    "check": {"small": -5},
    "type": {"small": "seven"},
    "too long": {"word": "x" * 30},
    DOOR: {"word": "a\x00b"},
}

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """An event that is going to be written. ``owned`` is the row whose order matters and that nobody else writes."""

    id: str
    kind: str
    via: str
    changes: Sequence[Change]
    shard_by: str | None = None
    poison: str | None = None
    disk: bool = False
    owned: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """As it stands in the journal."""
        return {
            "intent": self.id,
            "kind": self.kind,
            "via": self.via,
            "changes": self.changes,
            "poison": self.poison,
            "disk": self.disk,
            "owned": self.owned,
        }


class _Cell:
    """A row of which every event can be told in the row's state."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.events = 0


class Workload:
    """Draws events. ``retire`` a row when it is not known what became of one of its events."""

    def __init__(self, name: str, random: Random) -> None:
        """``name`` is unique among all producers of a run, and begins all ids and keys."""
        self._name = name
        self._random = random
        self._count = 0
        self._names = 0
        self._cells = {slot: _Cell(self._key("cell")) for slot in range(CELLS)}
        self._bulk = {slot: _Cell(self._key("bulk")) for slot in range(CELLS)}
        self._profiles = {slot: self._key("profile") for slot in range(PROFILES)}

    def batch(self, size: int) -> list[Planned]:
        """The next events. Those of a write_many come together, at the end."""
        kinds = self._random.choices(
            (self._cell, self._audit, self._profile, self._counters, self._order), (25, 10, 30, 30, 5), k=size
        )
        events = [kind() for kind in kinds]
        if self._random.random() < 0.3:  # noqa: PLR2004 - a share
            disk = self._chance(DISK_SHARE)
            events += [self._many(disk=disk) for _ in range(self._random.randint(5, 60))]
        return events

    def retire(self, owned: str) -> None:
        """Never write this row again."""
        for cells in (self._cells, self._bulk):
            for slot, cell in cells.items():
                if cell.key == owned:
                    cells[slot] = _Cell(self._key("cell"))
        for slot, key in self._profiles.items():
            if key == owned:
                self._profiles[slot] = self._key("profile")

    # --- kinds of events

    def _cell(self) -> Planned:
        slot = self._zipf(CELLS)
        return self._of_cell(self._cells[slot], SINGLE, disk=self._chance(DISK_SHARE))

    def _many(self, *, disk: bool) -> Planned:
        if self._chance(0.3):
            event = self._id()
            return Planned(event, "audit", MANY, [self._insert("audit", event_id=event, payload="many")], disk=disk)
        return self._of_cell(self._bulk[self._zipf(CELLS)], MANY, disk=disk)

    def _of_cell(self, cell: _Cell, via: str, *, disk: bool) -> Planned:
        if cell.events > 1 and via == SINGLE and self._chance(DELETE_SHARE / 3):
            self.retire(cell.key)
            change: Change = {"table": "cell", "key": {"key": cell.key}, "delete": True}
            return Planned(self._id(), "cell delete", via, [change], disk=disk, owned=cell.key)
        index = cell.events
        cell.events += 1
        if cell.events == CELL_EVENTS:
            self.retire(cell.key)
        change = {
            "table": "cell",
            "key": {"key": cell.key},
            "set": {"last": index},
            "add": {"tally": 4**index, "ops": 1},
        }
        poison = self._poison(change) if via == SINGLE else None
        return Planned(self._id(), "cell", via, [change], poison=poison, disk=disk, owned=cell.key)

    def _audit(self) -> Planned:
        event = self._id()
        late = {LATE_COLUMN: self._count} if self._chance(LATE_SHARE) else {}
        change = self._insert("audit", event_id=event, payload=self._text(), **late)
        poison = self._poison(change)
        return Planned(event, "audit", self._way(SINGLE), [change], poison=poison, disk=self._chance(DISK_SHARE))

    def _profile(self) -> Planned:
        key = self._profiles[self._zipf(PROFILES)]
        change: Change = {"table": "profile", "key": {"key": key}}
        draw = self._random
        kind = "profile delete" if self._chance(DELETE_SHARE) else "profile"
        if kind == "profile":
            if self._chance(0.6):
                change["set"] = {"note": self._text()}
            if self._chance(0.6):
                change["add"] = {"score": draw.randint(-50, 50), "amount": self._amount()}
            if self._chance(0.4):
                change["max"] = {"hi": draw.randint(0, 10**6)}
            if self._chance(0.4):
                change["min"] = {"lo": draw.randint(-(10**6), 0)}
        else:
            change["delete"] = True
        return self._group(kind, [change], f"profile:{key}", via=GROUP, owned=key)

    def _counters(self) -> Planned:
        lane, draw = self._zipf(LANES), self._random
        first = lane * ROWS
        rows = draw.sample(range(first, first + ROWS), draw.randint(1, 2))
        changes: list[Change] = [
            {
                "table": "counter",
                "key": {"id": row},
                "add": {"n": draw.randint(-9, 99)},
                "max": {"hi": draw.randint(0, 10**9)},
                "min": {"lo": draw.randint(-(10**9), 0)},
            }
            for row in rows
        ]
        changes.append(self._move(lane))
        return self._group("counters", changes, f"lane:{lane}", via=self._way(GROUP))

    def _order(self) -> Planned:
        event, lane = self._id(), self._zipf(LANES)
        items: list[Change] = [
            {"table": "item", "key": {"order_id": event, "line": line}, "set": {"quantity": self._random.randint(1, 9)}}
            for line in range(self._random.randint(1, 4))
        ]
        order: Change = {"table": "orders", "key": {"id": event}, "set": {"total": self._amount()}}
        return self._group(
            "order", [*items, order, self._move(lane)], f"lane:{lane}", via=self._way(GROUP), event=event
        )

    def _group(
        self, kind: str, changes: list[Change], shard_by: str, *, via: str, owned: str | None = None, event: str = ""
    ) -> Planned:
        event = event or self._id()
        poison = None if "delete" in changes[0] else self._poison(changes[0])
        return Planned(
            id=event,
            kind=kind,
            via=via,
            changes=[*changes, self._insert("witness", event_id=event)],
            shard_by=shard_by,
            poison=poison,
            disk=via == GROUP and self._chance(DISK_SHARE),
            owned=owned,
        )

    # --- draws

    def _move(self, lane: int) -> Change:
        sku = lane * ROWS + self._random.randrange(ROWS)
        key = {"site": f"site {lane % 3}", "sku": sku}
        return {"table": "stock", "key": key, "add": {"amount": self._amount(), "moves": 1}}

    def _poison(self, change: Change) -> str | None:
        """Poison it, seldom; how."""
        if not self._chance(POISON_SHARE):
            return None
        poison = self._random.choice(sorted(_POISON))
        part = change["insert"] if "insert" in change else change.setdefault("set", {})
        part.update(_POISON[poison])
        return poison

    def _insert(self, table: str, **values: Any) -> Change:
        return {"table": table, "insert": values}

    def _way(self, usual: str) -> str:
        return DELAY if self._chance(0.15) else usual

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _zipf(self, count: int) -> int:
        return self._random.choices(range(count), [1 / (place + 1) for place in range(count)])[0]

    def _amount(self) -> str:
        return f"{self._random.randint(-10_000, 10_000)}e-2"

    def _text(self) -> str:
        return "".join(self._random.choices("abcdefgh ijkl'\"\\\t\n,;{}äß€漢🙂", k=self._random.randint(1, 12)))

    def _id(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _key(self, what: str) -> str:
        self._names += 1
        return f"{self._name}:{what}{self._names}"
