"""When to try again: exponential backoff with full jitter, capped.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The exponent is clamped before the power (a float
overflows at 2**1024), and the jitter is kept at the cap, so that flushers which an outage has aligned spread again.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["RetryPolicy", "delay"]

_MAX_EXPONENT: Final = 62


class RetryPolicy(msgspec.Struct, frozen=True):
    """``attempts`` bounds the tries of what is not an outage; an outage is tried for ever.

    Attributes:
        base_seconds: the upper end of the first delay.
        cap_seconds: the upper end of every later delay.
        attempts: tries before an unexplained or foreign-key error makes a dead letter.
    """

    base_seconds: float = 0.2
    cap_seconds: float = 30.0
    attempts: int = 5


def delay(policy: RetryPolicy, failures: int, draw: float) -> float:
    """Seconds to wait after the ``failures``-th failure in a row (from 1); ``draw`` is a uniform number in [0, 1).

    At least a tenth of the ceiling, so that a draw near 0 does not hammer a database that is just starting.
    """
    exponent = min(max(failures - 1, 0), _MAX_EXPONENT)
    ceiling = min(policy.cap_seconds, policy.base_seconds * 2.0**exponent)
    return ceiling * (0.1 + 0.9 * draw)
