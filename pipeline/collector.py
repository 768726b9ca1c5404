"""Python's collector of reference cycles, which rests while a batch is worked on.

A batch is thousands of small objects that live for as long as it does. The collector looks at all of them again and
again, since so many were made, and finds nothing: they are free when the last reference is gone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_rest"]


@contextmanager
def at_rest() -> Iterator[None]:
    """The collector does not run meanwhile, in the whole process; for no longer than a batch takes.

    Where several threads do this, the first one that is through wakes it again: then the others are slower.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
