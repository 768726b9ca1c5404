"""The key space in Redis. This module spells every key; the scripts get all of theirs through KEYS.

``{n}`` is the number of the shard in braces, which makes it the hash tag of Redis Cluster: all keys of a shard live in
one slot. (The write script also takes the control queue, and those of the ingress take its lists beside keys of
shards, which are not in that slot: a cluster will need another way for both.)

=====================================  ======  =========================================================================
key                                    type    what it holds
=====================================  ======  =========================================================================
``pipeline.events.{n}``                list    the shard queue, a Celery queue: newest left, oldest right
``pipeline.batch.{n}``                 list    the frozen batch, same order
``pipeline.shard.{n}``                 hash    counters of the shard and the state of the frozen batch
``pipeline.lease.{n}``                 string  the flusher at work; expires
``pipeline.paused.{n}``                hash    paused table or column → when to probe it (Unix ms), ``|``, why (JSON).
                                               The field is the table; for a column, then NUL and the column
``pipeline.parked.{n}``                list    events set aside because that is paused, same order
``pipeline.resumed.{n}``               list    events that were set aside and are taken before the queue, same order
``pipeline.held.{n}``                  set     rows that events set aside touch, unless their whole table is paused:
                                               what follows waits, too
``pipeline.probed.{n}``                hash    what was resumed lately (fields as above) → probes in vain; expires
``pipeline.overlay.{n}:<table>:<key>`` list    pending events of one row, oldest left: ``[seq, id, change]``
``pipeline.row.{n}:<table>:<key>``     hash    the cached row, column → JSON; complete or absent. Its tag is the field
                                               without a name: see below
``pipeline.seen.{n}:<id>``             string  an idempotency key: seq and after; expires after the dedupe window
``pipeline.handed.{n}:<mark>``          string  a broken message that was handed to the flush; expires
``pipeline.waiting.{n}``               list    messages of the ingress queue that wait for room in the shard, same order
``pipeline.ingress.batch``             list    messages of the ingress queue that were taken in bulk and have not found
                                               their place yet, same order
``pipeline.ingress.state``             hash    the state of these
``pipeline.ingress.lease``             string  who takes them; expires
``pipeline.ingress.full``              set     shards for which messages wait
``pipeline.topology``                  hash    what every client must agree on
``pipeline``                           list    the ingress queue (Celery); kombu puts messages of a priority into lists
                                               beside it, see `Keys.ingress`
``pipeline.others``                    list    messages of it that only Celery can handle (Celery)
``pipeline.control``                   list    the queue of flush and maintenance tasks (Celery)
=====================================  ======  =========================================================================

The tag of a cached row, in a field that no column can have, says what the hash is:

- a life of the server (see `pipeline.buffer.connection.life_of`): the whole row, right as long as that life goes on.
  With ``!`` behind it: an event that is in the row already may be accepted again under its id, because Redis has gone
  back in time; such an event drops the row.
- ``?`` and a token: no row yet, the reader with this token is fetching it. Whatever is written drops the hash, and then
  that reader does not install what it has read.
- ``-``: no row, and it makes no sense to wait for one: everybody reads for himself for a second, or
  until what is pending has been written.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Keys", "ShardKeys"]

_PRIORITY: Final = "\x06\x16"
"""What kombu puts between the name of a queue and a priority, unless its transport options say otherwise (``sep``)."""


class ShardKeys:
    """The keys of one shard."""

    __slots__ = (
        "batch", "events", "handed", "held", "lease", "overlay", "parked", "paused", "probed", "resumed",
        "row", "seen", "state", "waiting",
    )  # fmt: skip

    def __init__(self, namespace: str, shard: int) -> None:
        tag = f"{{{shard}}}"
        self.events = f"{namespace}.events.{tag}"
        self.batch = f"{namespace}.batch.{tag}"
        self.state = f"{namespace}.shard.{tag}"
        self.lease = f"{namespace}.lease.{tag}"
        self.paused = f"{namespace}.paused.{tag}"
        self.parked = f"{namespace}.parked.{tag}"
        self.probed = f"{namespace}.probed.{tag}"
        self.resumed = f"{namespace}.resumed.{tag}"
        self.held = f"{namespace}.held.{tag}"
        self.overlay = f"{namespace}.overlay.{tag}:"
        self.row = f"{namespace}.row.{tag}:"
        self.seen = f"{namespace}.seen.{tag}:"
        self.handed = f"{namespace}.handed.{tag}:"
        self.waiting = f"{namespace}.waiting.{tag}"


class Keys:
    """All keys of a pipeline. Its shards' are made once: the write path only concatenates."""

    def __init__(self, namespace: str, shards: int) -> None:
        self.topology = f"{namespace}.topology"
        self.ingress = (namespace, *(f"{namespace}{_PRIORITY}{step}" for step in (3, 6, 9)))
        self.ingress_batch = f"{namespace}.ingress.batch"
        self.ingress_state = f"{namespace}.ingress.state"
        self.ingress_lease = f"{namespace}.ingress.lease"
        self.ingress_full = f"{namespace}.ingress.full"
        self.others = f"{namespace}.others"
        self.control = f"{namespace}.control"
        self.shards = tuple(ShardKeys(namespace, shard) for shard in range(shards))
