"""Messages as the write side makes them."""

from collections.abc import Sequence

import msgspec

from pipeline.core.change import Change, seal
from pipeline.core.codec import OPEN_END, Envelope, kwargs_json

TASK = "pipeline.apply_event"
QUEUE = "pipeline.events.{3}"


def message(
    event: str,
    changes: Sequence[Change],
    shard_by: str | None = None,
    accepted: tuple[int, int] = (1, 1_357_017_300_000),
) -> bytes:
    """A message, completed as the write script does."""
    kwargs = kwargs_json([seal(change)[0] for change in changes], shard_by)
    return Envelope(TASK, QUEUE).encode(msgspec.json.encode(event), kwargs) + b"[%d,%d]" % accepted + OPEN_END


def numbered(events: Sequence[Sequence[Change]]) -> list[bytes]:
    """A message for each of ``events``, which were accepted one after the other."""
    return [message(f"id-{n}", changes, accepted=(n, 1_700_000_000_000 + n)) for n, changes in enumerate(events, 1)]
