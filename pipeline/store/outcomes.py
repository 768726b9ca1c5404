"""What became of events, out of the ledger and the dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.config import Config
from pipeline.core.outcome import Outcome
from pipeline.progress import Asked, Found, Mark, Seen
from pipeline.store.session import SessionSource, translated
from pipeline.store.statements import statement

__all__ = ["PostgresOutcomes"]

_AT_ONCE: Final = 200
"""Batches of a shard in one statement: with 5000 events in each that takes half a second."""


class PostgresOutcomes:
    """`pipeline.progress.Outcomes` on PostgreSQL."""

    def __init__(self, sessions: SessionSource, config: Config) -> None:
        self._sessions = sessions
        self._namespace = config.namespace

    async def look(self, asked: Sequence[Asked]) -> Mapping[int, Seen]:
        """See `pipeline.progress.Outcomes.look`."""
        parameters = {
            "namespace": self._namespace,
            "most": _AT_ONCE,
            "shards": [one.shard for one in asked],
            "starts": [one.start for one in asked],
            "floors": [one.floor for one in asked],
            "marks": [one.mark and one.mark.seq for one in asked],
            "mark_ids": [one.mark and one.mark.batch_id for one in asked],
            "event_ids": list({event_id for one in asked for event_id in one.event_ids}),
        }
        with translated():
            async with self._sessions.queries() as queries:
                rows = await queries.rows(statement("find_outcomes"), parameters)
        found: dict[int, list[Found]] = {}
        batches: dict[int, dict[int, Mark]] = {}
        intacts: dict[int, bool] = {}
        for shard, intact, seq, batch_id, event_id, letter, reason, sqlstate in rows:
            intacts[shard] = intact
            batches.setdefault(shard, {}).setdefault(seq, Mark(seq, batch_id))
            if event_id is not None:
                outcome = Outcome.APPLIED if letter is None else Outcome("dead", reason, sqlstate, letter)
                found.setdefault(shard, []).append(Found(event_id, seq, outcome))
        return {
            shard: Seen(found.get(shard, ()), marks[max(marks)], len(marks) == _AT_ONCE, intacts[shard])
            for shard, marks in batches.items()
        }
