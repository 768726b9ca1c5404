"""Changes → events that the write script takes: checked, in their lane, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import msgspec

from pipeline.config import Config
from pipeline.core.change import Change, TableNames, canonical_table, check_event_id, lane_of, seal, shard_of
from pipeline.core.codec import Envelope, bodies_json, body_json, json_texts, kwargs_json
from pipeline.core.encoded import Encoded
from pipeline.core.sealing import seal_all
from pipeline.errors import EventTooLarge, InvalidEvent

__all__ = ["Encoder"]

WRITTEN_THROUGH: Final = (
    "the table is in PIPELINE_WRITE_THROUGH_TABLES: call write_through; its changes cannot be part of a group or come "
    "from Celery, where a message may be delivered twice"
)

_MOST_BYTES: Final = 4
"""Of a character in UTF-8."""

_to_json: Final = msgspec.json.Encoder().encode

_Sealed = tuple[dict[str, Any], str | None]


class Encoder:
    """Makes events. Immutable; safe to share between threads."""

    def __init__(self, config: Config, new_ids: Callable[[int], Sequence[str]]) -> None:
        """``new_ids`` makes so many fresh event ids."""
        self._shards = config.shards
        self._max_bytes = config.max_event_bytes
        self._tables = frozenset(map(canonical_table, config.tables))
        self._through = TableNames(config.write_through_tables)
        self._restricted = bool(self._tables or self._through)
        self._new_ids = new_ids
        task = f"{config.namespace}.apply_event"
        self._envelopes = [Envelope(task, f"{config.namespace}.events.{{{shard}}}") for shard in range(config.shards)]

        longest = max(envelope.size(b"", b"") for envelope in self._envelopes)
        self._surely_fits = (self._max_bytes - longest) // (2 * _MOST_BYTES)

    def new_id(self) -> str:
        """A fresh event id."""
        return self._new_ids(1)[0]

    def encode(self, changes: Sequence[Change], *, event_id: str | None = None, shard_by: str | None = None) -> Encoded:
        """Check ``changes`` and make the message of the event that they are.

        Raises:
            InvalidEvent: names the table, the column and the problem.
            EventTooLarge: the message has more than ``max_event_bytes``.
        """
        if not changes:
            raise InvalidEvent("an event needs at least one change")
        sealed = list(map(_sealed, changes))
        event = self.new_id() if event_id is None else check_event_id(event_id)
        return self._encode(sealed, event, shard_by, dedupe=event_id is not None)

    def encode_unsealed(self, change: Change, identity: str | None, event_id: str) -> Encoded:
        """`encode` for what `pipeline.core.change.unseal` has given, if all of its values are their own wire form."""
        return self._encode([(msgspec.to_builtins(change), identity)], check_event_id(event_id), dedupe=True)

    def encode_each(self, changes: Sequence[Change]) -> list[Encoded]:
        """One event for each change; raises as `encode`, and the error says at which position the change is."""
        ids = self._new_ids(len(changes))
        try:
            events = self._encode_all(changes, ids)
        except (InvalidEvent, ValueError, TypeError):
            events = None  # now it is found out which change it is, and what is wrong with it
        return self._encode_one_by_one(changes, ids) if events is None else events

    def _encode_one_by_one(self, changes: Sequence[Change], ids: Sequence[str]) -> list[Encoded]:
        events: list[Encoded] = []
        try:
            for change, event in zip(changes, ids, strict=True):
                events.append(self._encode([_sealed(change)], event))  # how many there are says which
        except InvalidEvent as error:
            error.position = len(events)
            raise
        return events

    def _encode_all(self, changes: Sequence[Change], ids: Sequence[str]) -> list[Encoded] | None:
        sealed = seal_all(changes)
        if sealed is None:
            return None
        tables, names, kwargs = sealed
        if self._restricted:
            self._check_allowed(set(tables))
        id_jsons, bodies = json_texts(ids), bodies_json(kwargs)
        if max(map(len, id_jsons)) + max(map(len, bodies)) > self._surely_fits:
            return None
        shards = map(lane_of, tables, names, ids, repeat(self._shards))
        return [
            Encoded(event, id_json, shard, body, () if name is None else ((f"{table}:{name}", json),))
            for event, id_json, shard, body, table, name, json in zip(
                ids, id_jsons, shards, bodies, tables, names, kwargs, strict=True
            )
        ]

    def _encode(
        self, sealed: Sequence[_Sealed], event: str, shard_by: str | None = None, *, dedupe: bool = False
    ) -> Encoded:
        if self._restricted:
            self._check_allowed([wire["table"] for wire, _ in sealed])
        rows: Sequence[tuple[str, str]] = ()
        if len(sealed) == 1 and shard_by is None:  # then the arguments are the change: encode it once
            ((wire, identity),) = sealed
            table, kwargs = wire["table"], _to_json(wire)
            shard = lane_of(table, identity, event, self._shards)
            if identity is not None:
                rows = ((f"{table}:{identity}", kwargs.decode()),)
        else:
            kwargs = kwargs_json([wire for wire, _ in sealed], shard_by)
            shard = shard_of([(wire["table"], identity) for wire, identity in sealed], shard_by, event, self._shards)
            rows = [
                (f"{wire['table']}:{identity}", _to_json(wire).decode())
                for wire, identity in sealed
                if identity is not None
            ]
        id_json, body = _to_json(event), body_json(kwargs)
        size = self._envelopes[shard].size(id_json, body)
        if size > self._max_bytes:
            raise EventTooLarge(
                f"the event has {size} bytes, more than PIPELINE_MAX_EVENT_BYTES={self._max_bytes}; "
                "keep large objects elsewhere and write a reference",
                sealed[0][0]["table"],
            )
        return Encoded(event, id_json.decode(), shard, body.decode(), rows, dedupe)

    def _check_allowed(self, tables: Iterable[str]) -> None:
        for table in tables:
            if self._tables and table not in self._tables:
                raise InvalidEvent("the table is not in PIPELINE_TABLES", table)
            if table in self._through:
                raise InvalidEvent(WRITTEN_THROUGH, table)


def _sealed(change: object) -> _Sealed:
    if not isinstance(change, Change):
        raise InvalidEvent(f"a change must be a pipeline.Change, not a {type(change).__qualname__}")
    return seal(change)
