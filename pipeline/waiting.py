"""Wait until events are applied or dead.

Only PostgreSQL can say so: the ledger has the ids of all events of every batch, applied and dead alike, and the dead
letters say which of them died. What Redis has done with is only the hint when to look there. It cannot be more: after
Redis has gone back in time it gives the same numbers again, to other events, and an event that it has forgotten must
not pass for applied.

An event is recorded by a batch with a higher number than the last one that Redis was done with when it accepted the
event. That holds whoever goes back in time: a batch is recorded under the number that Redis gave it, which is higher,
or behind everything that the ledger has, which is higher still. So a look reads only what is behind that number, and
nobody reads a batch twice: who waits remembers how far it has been read, and for a ledger that has gone back in time
also which batch stood there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pipeline.core.failure import Meaning, classify
from pipeline.core.outcome import Outcome
from pipeline.errors import BufferUnavailable, NotMigrated, StillPending, StoreError
from pipeline.progress import Asked, Lanes, Mark, Outcomes, Seen, Trouble
from pipeline.receipts import Slip
from pipeline.telemetry import Probe, Step, ignore
from pipeline.vigil import Bell, Vigil, Watch

__all__ = ["Waiting"]

_ANYWAY_SECONDS: Final = 1.0
"""PostgreSQL is asked so often without a hint: the acknowledgement of a batch may be lost, or Redis be away."""

_SLOW_SECONDS: Final = 0.1

_NAMED: Final = 3


class _Entry:
    """A receipt that somebody waits for. ``seen``: its event is in no batch up to this one."""

    __slots__ = ("after", "event_id", "outcome", "seen", "watch")

    def __init__(self, receipt: Slip, watch: _ReceiptWatch) -> None:
        self.event_id = receipt.event_id
        self.after = self.seen = receipt.after
        self.outcome = Outcome.PENDING
        self.watch = watch


class _ReceiptWatch(Watch):
    """Somebody who waits for events."""

    def __init__(self, receipts: Sequence[Slip], bell: Bell) -> None:
        super().__init__(bell)
        self.receipts = receipts
        self.entries = [_Entry(receipt, self) for receipt in receipts]
        self.left = len(self.entries)

    def pending(self) -> list[Slip]:
        """The receipts that are still waited for."""
        return [
            receipt
            for receipt, entry in zip(self.receipts, self.entries, strict=True)
            if entry.outcome == Outcome.PENDING
        ]


class _Lane:
    """The events of one shard that somebody waits for, and when the ledger was asked for them."""

    def __init__(self, now: float) -> None:
        self.entries: dict[str, list[_Entry]] = {}
        self.fresh: list[_Entry] = []  # for whom nobody has looked
        self.acknowledged: int | None = None  # in Redis when the ledger was asked
        self.mark: Mark | None = None
        self.asked = now
        self.more = False

    def due(self, acknowledged: int | None, now: float) -> bool:
        """Whether to ask the ledger now."""
        fresh, self.fresh = self.fresh, []
        if acknowledged is not None:
            if any(entry.after != acknowledged for entry in fresh) or self.acknowledged not in {None, acknowledged}:
                return True
            self.acknowledged = acknowledged
        return self.more or now - self.asked >= _ANYWAY_SECONDS

    def question(self, shard: int) -> tuple[Asked, list[_Entry]]:
        """What to ask, and for whom."""
        entries = [entry for same in self.entries.values() for entry in same]
        start, floor = min(entry.seen for entry in entries), min(entry.after for entry in entries)
        return Asked(shard, start, list(self.entries), floor, self.mark), entries

    def learn(self, seen: Seen, entries: Sequence[_Entry]) -> list[_Entry]:
        """The entries whose events were found, of those that were asked for."""
        settled = []
        for found in seen.found:  # oldest first: one that died and came again was not applied then
            for entry in self.entries.get(found.event_id, ()):
                if entry.after < found.seq and entry.outcome == Outcome.PENDING:
                    entry.outcome = found.outcome
                    settled.append(entry)
        if seen.last is not None:
            last = seen.last.seq
            for entry in entries:
                entry.seen = max(entry.seen if seen.intact else entry.after, last)
            if not seen.intact or self.mark is None or last > self.mark.seq:
                self.mark = seen.last
        self.more = seen.more
        return settled

    def remove(self, entry: _Entry) -> None:
        """Nobody waits for it any more."""
        same = self.entries.get(entry.event_id, [])
        if entry in same:
            same.remove(entry)
            if not same:
                del self.entries[entry.event_id]


class _ReceiptBook:
    """`pipeline.vigil.Book` of receipts."""

    def __init__(
        self, lock: threading.Lock, lanes: Lanes, outcomes: Outcomes, clock: Callable[[], float], probe: Probe
    ) -> None:
        self._lock = lock
        self._probe = probe
        self._redis = lanes
        self._postgres = outcomes
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self._retry = -math.inf
        self._trouble: dict[str, str] = {}
        self._asking: tuple[str, float] | None = None

    def enter(self, watch: _ReceiptWatch) -> None:
        """See `Book.enter`."""
        now = self._clock()
        for receipt, entry in zip(watch.receipts, watch.entries, strict=True):
            lane = self._lanes.get(receipt.shard) or self._lanes.setdefault(receipt.shard, _Lane(now))
            lane.entries.setdefault(entry.event_id, []).append(entry)
            lane.fresh.append(entry)

    def leave(self, watch: _ReceiptWatch) -> None:
        """See `Book.leave`."""
        for receipt, entry in zip(watch.receipts, watch.entries, strict=True):
            if entry.outcome == Outcome.PENDING:
                self._remove(receipt.shard, entry)

    def _remove(self, shard: int, entry: _Entry) -> None:
        lane = self._lanes.get(shard)
        if lane is not None:
            lane.remove(entry)
            if not lane.entries:
                del self._lanes[shard]

    async def look(self) -> bool:
        """See `Book.look`."""
        with self._lock:
            shards = sorted(self._lanes)
        acknowledged: Mapping[int, int] = {}
        self._asking = "Redis", self._clock()
        try:
            acknowledged = await self._redis.acknowledged(shards)
            self._probe(Step.POLLED)
            self._trouble.pop("Redis", None)
        except BufferUnavailable as error:
            self._trouble["Redis"] = str(error)
        finally:
            self._asking = None
        now = self._clock()
        if now < self._retry:
            return False
        with self._lock:
            due = [shard for shard, lane in sorted(self._lanes.items()) if lane.due(acknowledged.get(shard), now)]
        self._asking = "PostgreSQL", now
        try:
            news = await self.ask(due, acknowledged)
            self._trouble.pop("PostgreSQL", None)
        except StoreError as error:
            if isinstance(error, NotMigrated) or classify(error.sqlstate) is Meaning.SYSTEMIC:
                raise  # that is not going to end by itself
            self._trouble["PostgreSQL"] = str(error)
            self._retry = now + _ANYWAY_SECONDS
            news = False
        finally:
            self._asking = None
        return news

    @property
    def trouble(self) -> dict[str, str]:
        """Server → why it could not be asked."""
        asking, trouble = self._asking, dict(self._trouble)
        if asking is not None:
            server, since = asking
            seconds = self._clock() - since
            if seconds > _SLOW_SECONDS:
                trouble.setdefault(server, f"no answer for {seconds:.1f} s")
        return trouble

    async def ask(self, shards: Sequence[int], acknowledged: Mapping[int, int]) -> bool:
        """Ask the ledger for the events of ``shards``; whether it said something, or has more to say."""
        with self._lock:
            now = self._clock()
            questions = {shard: lane.question(shard) for shard in shards if (lane := self._lanes.get(shard))}
            for shard in questions:
                self._lanes[shard].more = True  # until there is an answer
        if not questions:
            return False
        answers = await self._postgres.look([asked for asked, _ in questions.values()])
        self._probe(Step.ASKED)
        news = False
        with self._lock:
            for shard, (_, entries) in questions.items():
                lane = self._lanes.get(shard)
                if lane is None:
                    continue
                for entry in lane.learn(answers.get(shard, Seen()), entries):
                    news = True
                    self._settle(shard, entry)
                lane.asked = now
                lane.acknowledged = acknowledged.get(shard, lane.acknowledged)
                news |= lane.more
        return news

    def _settle(self, shard: int, entry: _Entry) -> None:
        self._remove(shard, entry)
        watch = entry.watch
        watch.left -= 1
        if watch.left == 0:
            watch.settled = True
            watch.bell.ring()


class Waiting:
    """Finds out what became of events, for all who wait in a process together."""

    def __init__(
        self,
        lanes: Lanes,
        outcomes: Outcomes,
        shards: int,
        clock: Callable[[], float],
        bell: Callable[[], Bell],
        *,
        probe: Probe = ignore,
    ) -> None:
        """``clock`` counts seconds monotonically; ``bell`` makes the bell of one who waits."""
        self._redis = lanes
        self._postgres = outcomes
        self._shards = shards
        self._clock = clock
        self._bell = bell
        self._probe = probe
        self._vigil = Vigil[_ReceiptWatch, _ReceiptBook](self._book, clock)
        self._troubles: tuple[float, Mapping[int, Trouble]] = -math.inf, {}

    async def outcome(self, receipt: Slip) -> Outcome:
        """See `pipeline.wiring.Pipeline.outcome`."""
        watch = _ReceiptWatch(self._checked([receipt]), self._bell())
        if receipt.applied:
            return Outcome.APPLIED
        await self._ask(watch)
        return watch.entries[0].outcome

    async def wait(self, receipt: Slip, timeout: float | None = None) -> Outcome:  # noqa: ASYNC109
        """See `pipeline.wiring.Pipeline.wait`."""
        (outcome,) = await self.wait_all([receipt], timeout)
        return outcome

    async def wait_all(self, receipts: Iterable[Slip], timeout: float | None = None) -> list[Outcome]:  # noqa: ASYNC109
        """See `pipeline.wiring.Pipeline.wait_all`."""
        asked = self._checked(receipts)
        watch = _ReceiptWatch([receipt for receipt in asked if not receipt.applied], self._bell())
        if watch.entries:
            await self._wait(watch, timeout)
        found = iter(watch.entries)
        return [Outcome.APPLIED if receipt.applied else next(found).outcome for receipt in asked]

    async def _wait(self, watch: _ReceiptWatch, timeout: float | None) -> None:  # noqa: ASYNC109
        if timeout is not None and timeout <= 0:
            await self._ask(watch)
            if not watch.settled:
                raise await self._late(watch, 0, {})
        else:
            began = self._clock()
            book = await self._vigil.keep(watch, math.inf if timeout is None else timeout)
            if book is not None and watch.pending():
                raise await self._late(watch, self._clock() - began, book.trouble)

    async def _ask(self, watch: _ReceiptWatch) -> None:
        """Ask PostgreSQL once, here and now."""
        book = self._book(threading.Lock())
        book.enter(watch)
        shards = {receipt.shard for receipt in watch.receipts}
        while await book.ask(sorted(shards), {}) and not watch.settled:
            pass

    def _book(self, lock: threading.Lock) -> _ReceiptBook:
        return _ReceiptBook(lock, self._redis, self._postgres, self._clock, self._probe)

    async def _late(self, watch: _ReceiptWatch, seconds: float, trouble: Mapping[str, str]) -> StillPending:
        pending = watch.pending()
        problems = [f"{server} could not be asked: {why}" for server, why in trouble.items()]
        if "Redis" not in trouble:
            first = {receipt.shard: receipt for receipt in reversed(pending)}
            last: dict[int, int] = {}
            for receipt in pending:
                last[receipt.shard] = max(receipt.seq, last.get(receipt.shard, 0))
            troubles = await self._troubles_of(last)
            for shard, receipt in sorted(first.items())[:_NAMED]:
                problems += [f"shard {shard}: {why}" for why in _why(troubles.get(shard), receipt)]
        named = ", ".join(f"{receipt.event_id} in shard {receipt.shard}" for receipt in pending[:_NAMED])
        if len(pending) > _NAMED:
            named += ", …"
        return StillPending(round(seconds, 3), len(pending), len(watch.entries), "; ".join([named, *problems]))

    async def _troubles_of(self, shards: Mapping[int, int]) -> Mapping[int, Trouble]:
        """Not more often than once a second for each shard, however many of those who wait give up at once.

        ``shards`` have the last number that somebody waits for: what was known before it was given is of no use.
        """
        now = self._clock()
        asked, troubles = self._troubles
        known = all(shard in troubles and troubles[shard].accepted >= last for shard, last in shards.items())
        if now - asked > _ANYWAY_SECONDS or not known:
            try:
                troubles = await self._redis.troubles(list(shards))
            except BufferUnavailable:
                troubles = {}
            self._troubles = now, troubles
        return troubles

    def _checked(self, receipts: Iterable[Slip]) -> Sequence[Slip]:
        checked = list(receipts)
        for receipt in checked:
            if not isinstance(receipt, Slip):
                raise TypeError(f"a receipt of a write is needed, not a {type(receipt).__qualname__}")
            if not 0 <= receipt.shard < self._shards:
                raise ValueError(f"{receipt} is not of this pipeline: its shards are 0 to {self._shards - 1}")
        return checked


def _why(trouble: Trouble | None, receipt: Slip) -> list[str]:
    """What may keep an event from being applied."""
    if trouble is None:
        return []
    why = [f"{name} is paused" for name in trouble.paused]
    if trouble.error is not None:
        why.append(f"its batch fails: {trouble.error}")
    if trouble.accepted < receipt.seq:
        why.append("Redis has gone back in time, and may have forgotten the event")
    elif not why and trouble.acknowledged == receipt.after:
        why.append("no batch was written since: is a worker flushing?")
    return why
