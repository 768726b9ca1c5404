"""What the pipeline promises, in plain Python, and an eye that looks into Redis and PostgreSQL past the pipeline.

The model knows which events were accepted, in which order, and what may have been lost when Redis was set back. `Model.
check` compares that with what the servers hold at one instant, whatever was interrupted. It uses the ledger only as the
order in which things happened: replayed event by event, it must give exactly the rows that the tables hold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pipeline import Change
from tests.integration.scene import Scene

SCHEMA: Final = (
    "CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0, high int, low int, label text)",
    "ALTER TABLE counter ADD CHECK (label <> 'bad')",
    "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what int NOT NULL)",
    "CREATE TABLE parent (id int PRIMARY KEY, name text)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent, note text)",
)
TABLES: Final = ("counter", "log", "parent", "child")
COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    "counter": {"n": 0, "high": None, "low": None, "label": None},
    "parent": {"name": None},
    "child": {"parent": None, "note": None},
}
AWAY: Final = "_away"
"""Ends the name of a table or a column while it is taken away."""

ALWAYS_THERE: Final = 1
"""A parent that is never written nor deleted."""

CRASHES: Final = 3
"""An event over which a flusher vanished so often may be blamed for it."""

Row = tuple[str, int]


class Accepted(NamedTuple):
    """An accepted event. ``after`` are the events that it follows on its rows; ``parents`` is the last event before it
    on each parent row that it refers to."""

    changes: tuple[Change, ...]
    after: frozenset[str]
    parents: Mapping[int, str]


class Timeline:
    """What Redis knows: it can be set back to a copy."""

    def __init__(self) -> None:
        self.last: dict[Row, str] = {}
        self.seen: set[str] = set()
        self.accepted: set[str] = set()

    def copy(self) -> Timeline:
        other = Timeline()
        other.last, other.seen, other.accepted = dict(self.last), set(self.seen), set(self.accepted)
        return other


class Letter(NamedTuple):
    """A dead letter as the table has it."""

    event: str
    sqlstate: str | None
    reason: str


class Sight(NamedTuple):
    """What the servers hold at one instant."""

    pending: Sequence[str]
    overlays: Mapping[str, Sequence[str]]
    expected_overlays: Mapping[str, Sequence[str]]
    batches: Sequence[tuple[int, Sequence[str]]]
    letters: Sequence[Letter]
    gaps: int
    rows: Mapping[str, Any]


class State:
    """The rows of the tables."""

    def __init__(self) -> None:
        self.keyed: dict[str, dict[int, dict[str, Any]]] = {"counter": {}, "parent": {}, "child": {}}
        self.keyed["parent"][ALWAYS_THERE] = {"name": None}
        self.log: Counter[int] = Counter()

    def apply(self, change: Change) -> None:
        if change.insert is not None:
            self.log[change.insert["what"]] += 1
            return
        rows, key = self.keyed[change.table], change.key["id"]
        if change.delete:
            rows.pop(key, None)
            return
        row = rows.setdefault(key, dict(COLUMNS[change.table]))
        row.update(change.set)
        for column, value in change.add.items():
            row[column] = (row[column] or 0) + value
        for verb, columns in ((max, change.max), (min, change.min)):
            for column, value in columns.items():
                row[column] = value if row[column] is None else verb(row[column], value)

    def refuses(self, change: Change) -> bool:
        """Whether PostgreSQL has a reason to refuse ``change`` here."""
        if change.insert is not None:
            return change.insert["what"] is None
        if change.set.get("label") == "bad":
            return True
        if change.table == "child" and not change.delete:
            parent = change.set.get("parent")
            if parent is None:
                return change.key["id"] not in self.keyed["child"]
            return parent not in self.keyed["parent"]
        if change.table == "parent" and change.delete:
            return any(row["parent"] == change.key["id"] for row in self.keyed["child"].values())
        return False


class Model:
    """What was accepted, and what must hold of it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.accepted: dict[str, Accepted] = {}
        self.losable: set[str] = set()
        self.named: set[str] = set()
        self.vanished = 0
        self.forgotten: list[tuple[int, Sequence[str]]] = []

    def accept(self, event: str, changes: Sequence[Change], *, duplicate: bool, named: bool = False) -> None:
        """Redis said that it accepted ``event``; ``named``: under an id that its client chose."""
        timeline = self.timeline
        assert duplicate == (event in timeline.seen), f"{event}: duplicate={duplicate}"
        if duplicate:
            return
        if named:
            timeline.seen.add(event)
            self.named.add(event)
        rows = [(change.table, change.key["id"]) for change in changes if change.key]
        if event in self.accepted:  # again, after Redis forgot it; it may have been applied long before
            self.losable.discard(event)
            self.accepted[event] = self.accepted[event]._replace(after=frozenset())
        else:
            after = frozenset(timeline.last[row] for row in rows if row in timeline.last)
            needs: list[int] = [change.set["parent"] for change in changes if "parent" in change.set]
            parents = {p: timeline.last["parent", p] for p in needs if ("parent", p) in timeline.last}
            self.accepted[event] = Accepted(tuple(changes), after, parents)
        timeline.accepted.add(event)
        timeline.last.update(dict.fromkeys(rows, event))

    def set_back(self, to: Timeline) -> None:
        """Redis is set back: what it did not know then may be lost, unless it is applied."""
        self.losable |= self.timeline.accepted - to.accepted
        self.timeline = to.copy()
        self.vanished += 1  # a batch that was being written then looks like one whose flusher died

    def comes_again(self, sight: Sight) -> bool:
        """Whether Redis holds an event that is applied, or would accept it again under its id."""
        unknown = self.named - self.timeline.seen
        return not self._places(sight).keys().isdisjoint({*sight.pending, *unknown})

    def forget(self, sight: Sight) -> None:
        """The ledger is about to be pruned."""
        known = {seq for seq, _ in self.forgotten}
        self.forgotten += [batch for batch in sight.batches if batch[0] not in known]

    # --- what must hold

    def check(self, sight: Sight) -> None:
        """Whatever happens, wherever it is interrupted."""
        places = self._places(sight)
        self._check_whereabouts(sight, places)
        self._check_order(places)
        assert sight.overlays == sight.expected_overlays
        assert sight.gaps == 0, "PostgreSQL is thought to have gone back in time"
        state = self._replay(sight, places)
        expected = {**state.keyed, "log": state.log}
        assert sight.rows == expected, f"{sight.rows} instead of {expected}"

    def check_drained(self, sight: Sight) -> None:
        """When nothing is left to do."""
        self.check(sight)
        assert not sight.pending, f"still pending: {sight.pending}"
        assert not sight.overlays

    def _places(self, sight: Sight) -> dict[str, tuple[int, int]]:
        """Event → where the ledger has it first."""
        places: dict[str, tuple[int, int]] = {}
        for seq, ids in sorted({**dict(self.forgotten), **dict(sight.batches)}.items()):
            for position, event in enumerate(ids):
                places.setdefault(event, (seq, position))
        return places

    def _check_whereabouts(self, sight: Sight, places: Mapping[str, tuple[int, int]]) -> None:
        twice = [event for event, count in Counter(sight.pending).items() if count > 1]
        assert not twice, f"pending twice: {twice}"
        dead = Counter(letter.event for letter in sight.letters)
        assert all(count == 1 for count in dead.values()), f"dead twice: {dead}"
        assert dead.keys() <= places.keys(), f"dead, and not in the ledger: {dead.keys() - places.keys()}"
        known = places.keys() | set(sight.pending)
        assert known <= self.accepted.keys(), f"never accepted: {known - self.accepted.keys()}"
        lost = self.accepted.keys() - known
        assert lost <= self.losable, f"lost: {lost - self.losable}"

    def _check_order(self, places: Mapping[str, tuple[int, int]]) -> None:
        for event, place in places.items():
            for before in self.accepted[event].after:
                assert before in places, f"{event} overtook {before} on its row"
                assert places[before] < place, f"{event} overtook {before} on its row"

    def _replay(self, sight: Sight, places: Mapping[str, tuple[int, int]]) -> State:
        state = State()
        letters = {letter.event: letter for letter in sight.letters}
        for event in sorted(places, key=lambda one: places[one]):
            if event in letters:
                self._check_blame(letters[event], state, places)
            else:
                for change in self.accepted[event].changes:
                    state.apply(change)
        return state

    def _check_blame(self, letter: Letter, state: State, places: Mapping[str, tuple[int, int]]) -> None:
        """A dead letter needs a reason."""
        if letter.sqlstate is None and "died over this event" in letter.reason:
            assert self.vanished >= CRASHES, f"{letter}, and only {self.vanished} flushers did"
            return
        event = self.accepted[letter.event]
        for parent, writer in event.parents.items():
            writes = any(
                change.key.get("id") == parent and not change.delete for change in self.accepted[writer].changes
            )
            behind = places.get(writer, (2**63, 0)) > places[letter.event]
            lost = writer not in places and writer in self.losable
            assert lost or not (writes and behind), f"{letter}: its parent was accepted before it, in {writer}"
        assert any(state.refuses(change) for change in _by_themselves(event.changes)), f"no fault of its own: {letter}"


def _by_themselves(changes: Iterable[Change]) -> Iterator[Change]:
    """The changes of an event, without a child whose parent the same event writes."""
    parents = {change.key["id"] for change in changes if change.table == "parent"}
    for change in changes:
        if not (change.table == "child" and change.set.get("parent") in parents):
            yield change


# --- looking

_LOOK: Final = """
SELECT (SELECT json_agg(json_build_array(seq, event_ids) ORDER BY seq) FROM pipeline.batch),
       (SELECT json_agg(json_build_array(event_id, sqlstate, reason) ORDER BY id) FROM pipeline.dead_letter),
       (SELECT sum(store_gaps) FROM pipeline.shard),
       {tables}
"""


def look(scene: Scene, names: Mapping[str, str]) -> Sight:
    """Look at everything; ``names`` says what the tables are called now. A column that is away ends with `AWAY`."""
    pending, overlays, expected = _look_into_redis(scene)
    tables = ",".join(f"(SELECT json_agg(t) FROM {names[table]} t)" for table in TABLES)
    batches, letters, gaps, *found = scene.sql(_LOOK.format(tables=tables))[0]
    rows: dict[str, Any] = {}
    for table, content in zip(TABLES, found, strict=True):
        if table == "log":
            rows[table] = Counter(row["what"] for row in _at_home(content))
        else:
            rows[table] = {row.pop("id"): row for row in _at_home(content)}
    return Sight(
        pending, overlays, expected, [tuple(one) for one in batches or ()],
        [Letter(*one) for one in letters or ()], int(gaps or 0), rows,
    )  # fmt: skip


def _at_home(content: Sequence[Mapping[str, Any]] | None) -> Iterator[dict[str, Any]]:
    for row in content or ():
        yield {column.removesuffix(AWAY): value for column, value in row.items()}


def _look_into_redis(scene: Scene) -> tuple[list[str], dict[str, list[str]], dict[str, list[str]]]:
    """The ids of pending events, oldest first; the ids in each row's overlay; and those that should be there."""
    keys = scene.keys
    names: list[bytes] = sorted(scene.redis.keys(f"{keys.overlay}*"))
    pipe = scene.redis.pipeline(transaction=True)
    for name in (keys.parked, keys.resumed, keys.batch, keys.events, *names):
        pipe.lrange(name, 0, -1)
    lists = pipe.execute()
    messages = sorted((json.loads(message) for part in lists[:4] for message in part), key=_seq)
    expected: dict[str, list[str]] = {}
    for message in messages:
        arguments = json.loads(message["body"])[1]
        for change in arguments.get("changes") or [arguments]:
            if "key" in change:
                expected.setdefault(f"{change['table']}:id={change['key']['id']}", []).append(message["headers"]["id"])
    overlays = {
        row.decode().removeprefix(keys.overlay): [json.loads(entry)[1] for entry in entries]
        for row, entries in zip(names, lists[4:], strict=True)
    }
    return [message["headers"]["id"] for message in messages], overlays, expected


def _seq(message: Mapping[str, Any]) -> int:
    seq: int = message["headers"]["pipeline"][0]
    return seq
