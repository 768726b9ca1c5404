"""Write dead letters again, in a first form: what commutes with newer writes is replayed, the rest only when forced.

Law L8: a replayed dead letter does not overwrite what a newer write has set, unless forced. An ``insert`` and an
``add`` cannot overwrite anything (an ``add`` to a row that was deleted meanwhile makes it anew). A ``set``, ``max``,
``min`` or ``delete`` could, and nothing records yet whether a newer write has touched its row: so it needs ``force``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pipeline.config import Config
from pipeline.core.change import MAX_EVENT_ID, Event
from pipeline.core.codec import Malformed, decode
from pipeline.driving import run
from pipeline.ports import DeadLetter, DeadLetters, EventWriter
from pipeline.telemetry import Probe, Step, ignore

__all__ = ["ReplayOutcome", "Replayed", "Replayer"]


class ReplayOutcome(StrEnum):
    """What became of a dead letter that was to be replayed."""

    REPLAYED = "replayed"
    WOULD_REPLAY = "would_replay"  # a dry run
    NOT_FOUND = "not_found"  # there is no such dead letter
    NOT_DEAD = "not_dead"  # it was replayed or discarded before
    NEEDS_FORCE = "needs_force"  # it sets or deletes, and could overwrite a newer write
    MALFORMED = "malformed"  # it is no event, and cannot be written as it is
    REFUSED = "refused"  # the write side refused it


class Replayed(msgspec.Struct, frozen=True):
    """The outcome for one dead letter; ``event_id`` is the id under which it was written again."""

    id: int
    outcome: ReplayOutcome
    event_id: str | None = None
    detail: str | None = None


_SUFFIX: Final = ":replay-"
_PAGE: Final = 100  # letters in memory at once: a letter may have PIPELINE_MAX_EVENT_BYTES


class Replayer:
    """Writes dead letters again through the write side."""

    def __init__(self, writer: EventWriter, letters: DeadLetters, config: Config, probe: Probe = ignore) -> None:
        self._writer = writer
        self._probe = probe
        self._letters = letters
        self._task = f"{config.namespace}.apply_event"

    def replay(
        self, letters: Sequence[DeadLetter], *, actor: str, force: bool = False, dry_run: bool = False
    ) -> Iterator[Replayed]:
        """Replay ``letters`` in the order in which they died, one at a time, saying what became of each.

        The new event's id follows from the letter, so a replay that is interrupted and repeated within the dedupe
        window does not write twice.
        """
        for letter in sorted(letters, key=lambda one: one.id):
            yield self._replay(letter, actor=actor, force=force, dry_run=dry_run)

    def replay_ids(
        self, ids: Iterable[int], *, actor: str, force: bool = False, dry_run: bool = False
    ) -> Iterator[Replayed]:
        """Replay the letters with these ids, each once, in the order in which they died."""
        wanted = sorted(frozenset(ids))
        for start in range(0, len(wanted), _PAGE):
            page = wanted[start : start + _PAGE]
            letters = {letter.id: letter for letter in self._letters.get(page)}
            for one in page:
                if one in letters:
                    yield self._replay(letters[one], actor=actor, force=force, dry_run=dry_run)
                else:
                    yield Replayed(one, ReplayOutcome.NOT_FOUND)

    def replay_all(
        self, *, actor: str, last: int, table: str | None = None, force: bool = False, dry_run: bool = False
    ) -> Iterator[Replayed]:
        """Replay every letter (of ``table``) that is dead, up to the id ``last``, in the order in which they died.

        ``last`` is `Extent.last`: what dies while this runs, maybe of the same fault again, is not taken up.
        """
        after = 0
        while letters := self._letters.oldest(after=after, last=last, table=table, limit=_PAGE):
            yield from self.replay(letters, actor=actor, force=force, dry_run=dry_run)
            after = letters[-1].id

    def event(self, letter: DeadLetter) -> Event | Malformed:
        """What a dead letter's message holds."""
        return decode(letter.message, self._task)

    def _replay(self, letter: DeadLetter, *, actor: str, force: bool, dry_run: bool) -> Replayed:
        if letter.status != "dead":
            return Replayed(letter.id, ReplayOutcome.NOT_DEAD, detail=letter.status)
        event = self.event(letter)
        if isinstance(event, Malformed):
            return Replayed(letter.id, ReplayOutcome.MALFORMED, detail=event.reason)
        if not force and not _commutes(event):
            return Replayed(
                letter.id,
                ReplayOutcome.NEEDS_FORCE,
                detail="does more than add and insert; a newer write may be overwritten",
            )
        suffix = f"{_SUFFIX}{letter.id}"  # alone makes the id unique, so what stands before it may be cut
        event_id = event.id.partition(_SUFFIX)[0][: MAX_EVENT_ID - len(suffix)] + suffix
        if dry_run:
            return Replayed(letter.id, ReplayOutcome.WOULD_REPLAY, event_id)
        self._probe(Step.REPLAYING)
        try:
            run(self._writer.write(event.changes, event_id=event_id, shard_by=event.shard_by))
        except ValueError as error:
            return Replayed(letter.id, ReplayOutcome.REFUSED, detail=str(error))
        self._probe(Step.REPLAYED)
        self._letters.mark_replayed(letter.id, event_id=event_id, forced=force, actor=actor)
        self._probe(Step.MARKED)
        return Replayed(letter.id, ReplayOutcome.REPLAYED, event_id)


def _commutes(event: Event) -> bool:
    """Whether every change of the event is an insert or adds only: then it overwrites nothing, whenever it comes."""
    return all(
        change.insert is not None or (change.add and not (change.set or change.max or change.min or change.delete))
        for change in event.changes
    )
