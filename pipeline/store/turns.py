"""The advisory lock by which a ``write_through`` has its turn on a row."""

from __future__ import annotations

from hashlib import blake2b

from pipeline.reading import Place

__all__ = ["turn_key"]


def turn_key(namespace: str, place: Place) -> int:
    """The key of the lock, 64 bits with a sign. Two rows that share one wait for each other, and that is all."""
    name = f"{namespace}\x00{place.table}\x00{place.identity}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)
