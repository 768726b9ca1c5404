"""Says whether a message escapes: from the decoder, from the fold and the writer of rows, or into Celery's worker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from zlib import crc32

from celery import Celery
from celery.worker.request import Request
from kombu import Connection
from kombu.utils.json import loads

from pipeline import Config, Pipeline
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.celery import register
from pipeline.core.change import Change, Event, seal
from pipeline.core.codec import Malformed, decode
from pipeline.core.decoding import Decoder
from pipeline.core.entries import Entries
from pipeline.core.fold import Delete, Insert, Operation, fold, operation
from pipeline.core.fold_columns import fold_events
from pipeline.core.table import Column, Kind, Table
from pipeline.store.text import Unfit, array_text, copy_data, text_of

__all__ = ["Judge"]

SLOW_SECONDS: Final = 0.05
SMALL_BYTES: Final = 100_000
_TRIES: Final = 5  # a machine that is busy is slow now and then, a decoder that is slow always is

_SOME: Final = 32
"""Messages that are alike, and so are decoded together; so many that their form is known from then on."""

_KINDS: Final = (*Kind, Kind.INTEGER, Kind.TEXT, Kind.JSON, Kind.TEXT, Kind.JSON, Kind.ARRAY)
_LOW, _HIGH = -(2**63), 2**63 - 1


class Judge:
    """Looks at one message after the other and counts what became of them, in ``outcomes``."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        pipeline = Pipeline(Config())
        self._task_name = f"{pipeline.config.namespace}.apply_event"
        self._ingress = pipeline.ingress
        self._app = Celery("fuzzing", broker="memory://", set_as_current=False)
        register(self._app, pipeline)
        self._task = self._app.tasks[self._task_name]
        self._channel: Any = Connection("memory://").channel()
        self._now = datetime.now(UTC)

    def escape(self, raw: bytes) -> str | None:
        """How ``raw`` escapes, ``None`` if it does not."""
        try:
            return self._slow(raw) or self._undecoded(raw) or self._let_in(raw)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            return f"{type(error).__name__}: {error!s:.300}"

    def _slow(self, raw: bytes) -> str | None:
        if len(raw) > SMALL_BYTES:
            return None
        taken = self._timed(raw)
        for _ in range(_TRIES):
            if taken > SLOW_SECONDS:
                taken = min(taken, self._timed(raw))
        self.slowest = max(self.slowest, taken)
        return f"slow: {taken * 1000:.0f} ms for {len(raw)} bytes" if taken > SLOW_SECONDS else None

    def _timed(self, raw: bytes) -> float:
        begun = time.perf_counter()
        decode(raw, self._task_name)
        self._ingress.refusal(raw, (), self._now, read_as_celery)
        return time.perf_counter() - begun

    # --- the flush

    def _undecoded(self, raw: bytes) -> str | None:
        found = decode(raw, self._task_name)
        decoder, entries = Decoder(self._task_name), Entries.of([])
        for known in (False, True) if isinstance(found, Event) else (False,):
            entries = decoder.decode([raw] * _SOME)
            if list(map(repr, entries)) != [repr(found)] * _SOME:
                return f"decoded otherwise among others{', when its form was known' * known}"
        if isinstance(found, Malformed):
            self.outcomes["malformed"] += 1
            found.reason.encode()
            (found.id or "").encode()
            if not found.reason:
                return "malformed without a reason"
            return None if found.raw == raw or b"malformed" in raw else "malformed, and its bytes are others"
        self.outcomes["event"] += 1
        if found.raw != raw:
            return "an event whose bytes are others"
        for change, identity in zip(found.changes, found.identities, strict=True):
            if seal(change)[1] != identity:
                return f"decoded, but a writer would call its row something else than {identity!r:.100}"
        return self._unwritten(found, entries)

    def _unwritten(self, event: Event, entries: Entries) -> str | None:
        """Fold it and make rows of it, with columns of every type: what does not fit may say so, and no more."""
        for salt in range(3):
            tables: dict[str, Table] = {}
            for change in event.changes:
                _add_table(tables, change, salt)
            waves = fold([*event.changes] * 2, [*event.identities] * 2, tables)
            for wave in [*waves, *fold_events(entries.events(range(len(entries))), tables)]:
                for table in tables.values():
                    for block in wave.blocks.get(table.oid, ()):
                        for change in block.changes():
                            _write(operation(change), table)
                    for row in wave.rows.get(table.oid, {}).values():
                        _write(row, table)
                    for insert in wave.inserts.get(table.oid, ()):
                        _write(insert, table)
        return None

    # --- the worker

    def _let_in(self, raw: bytes) -> str | None:
        """What the ingress lets in, kombu and Celery can take; what it refuses has a reason that can be told."""
        reason = self._ingress.refusal(raw, (), self._now, read_as_celery)
        if reason is not None:
            self.outcomes["refused at the door"] += 1
            reason.encode("utf-8", "strict" if reason.isprintable() else "backslashreplace")
            return None if reason else "refused without a reason"
        self.outcomes["let in"] += 1
        payload: Any = loads(raw.decode())
        message = self._channel.Message(payload, channel=self._channel)
        message.decode()
        if message.errors:
            return f"let in, and kombu says {message.errors[0]!r:.200}"
        request: Any = Request
        if "task" in message.headers:
            request(message, app=self._app, task=self._task)
        hash(message.delivery_tag)
        return None


def _add_table(tables: dict[str, Table], change: Change, salt: int) -> None:
    """See that the change's table has all of its columns, of types that depend on their names and on ``salt``."""
    names = [*change.key, *change.set, *change.add, *change.max, *change.min, *(change.insert or {})]
    known = tables.get(change.table)
    columns = dict(known.columns) if known else {}
    for name in names:
        kind = _KINDS[(crc32(name.encode()) + salt * 7) % len(_KINDS)]
        element = Kind.TEXT if kind is Kind.ARRAY else None
        columns[name] = Column(name, kind.value, kind.value, kind, element=element, low=_LOW, high=_HIGH)
    keys = (known.unique_keys if known else frozenset()) | {frozenset(change.key)}
    tables[change.table] = Table(crc32(change.table.encode()), "public", change.table, columns, keys)


def _write(row: Operation | Insert, table: Table) -> None:
    def texts() -> list[str | None]:
        if isinstance(row, Insert):
            return [_text(text_of, value, table.columns[name]) for name, value in row.values.items()]
        found = [_text(text_of, value, table.columns[name]) for name, value in row.key.items()]
        if not isinstance(row, Delete):
            for name, step in row.steps.items():
                found.append(_text(array_text if step.candidates else text_of, step.operand, table.columns[name]))
        return found

    try:
        copy_data([[text] for text in texts()])
    except Unfit as error:
        str(error).encode()


def _text(encode: Callable[[Any, Column], str], value: Any, column: Column) -> str | None:
    return None if value is None else encode(value, column)
