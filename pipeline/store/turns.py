"""The advisory locks of a ``write_through``: its turn on a row, and its way through a lane. See decision 0014."""

from __future__ import annotations

from hashlib import blake2b

from pipeline.reading import Place

__all__ = ["lane_key", "turn_key"]


def turn_key(namespace: str, place: Place) -> int:
    """The lock on a row. Two rows that share one wait for each other, and that is all."""
    return _hash(f"{namespace}\x00{place.table}\x00{place.identity}")


def lane_key(namespace: str, shard: int) -> int:
    """The lock that all ``write_through`` of a shard share, and that a flush has alone which deletes a missing row.

    Such a ``DELETE`` waits for nobody, although the row may be made in a transaction that commits before it: then it
    would take effect before that row was there, and reads have shown it as deleted.
    """
    return _hash(f"{namespace}\x00{shard}")


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)
