"""Wait for a fact, not for time."""

import time
from collections.abc import Callable

DEADLINE_SECONDS = 30.0
PAUSE_SECONDS = 0.05


def wait_until(fact: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Return as soon as ``fact()`` is true; fail after ``seconds``, naming what did not come."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(PAUSE_SECONDS)
