"""Python's collector of reference cycles, which rests while a batch is worked on.

A batch is thousands of small objects that live for as long as it does. The collector looks at all of them again and
again, since so many were made, and finds nothing: they are free when the last reference is gone.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_rest"]

_resting: set[int] = set()
"""The process in which we have put it to rest."""


@contextmanager
def at_rest() -> Iterator[None]:
    """The collector does not run meanwhile, in the whole process; for no longer than a batch takes.

    Where several threads do this, the first one that is through wakes it again: then the others are slower.
    """
    if not gc.isenabled():
        yield
        return
    try:
        _resting.add(os.getpid())
        gc.disable()
        yield
    finally:
        gc.enable()
        _resting.clear()


def _wake_in_child() -> None:
    """A child that another thread has forked meanwhile has nobody who would."""
    if _resting:
        _resting.clear()
        gc.enable()


os.register_at_fork(after_in_child=_wake_in_child)
