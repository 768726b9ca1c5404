"""What became of an event."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

__all__ = ["Outcome"]


class Outcome(msgspec.Struct, frozen=True, eq=False):
    """What became of an event: `APPLIED`, `DEAD` or `PENDING`.

    Two outcomes are equal if their ``state`` is, so ``outcome == Outcome.DEAD`` holds whatever the event died of, and
    ``match`` takes ``case Outcome.DEAD:``. There is only one ``Outcome.APPLIED``, and one ``Outcome.PENDING``.

    A dead event has a ``reason``, the ``sqlstate`` of PostgreSQL if that refused it, and the id of its ``dead_letter``.
    """

    state: Literal["applied", "dead", "pending"]
    reason: str | None = None
    sqlstate: str | None = None
    dead_letter: int | None = None

    APPLIED: ClassVar[Outcome]
    """It is committed in PostgreSQL."""
    DEAD: ClassVar[Outcome]
    """It could not be applied, and is kept as a dead letter."""
    PENDING: ClassVar[Outcome]
    """Neither of them, as far as PostgreSQL knows."""

    def __eq__(self, other: object) -> bool:
        return self.state == other.state if isinstance(other, Outcome) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.state)

    def __repr__(self) -> str:
        name = f"Outcome.{self.state.upper()}"
        facts = {"reason": self.reason, "sqlstate": self.sqlstate, "dead_letter": self.dead_letter}
        known = ", ".join(f"{field}={value!r}" for field, value in facts.items() if value is not None)
        return f"<{name}: {known}>" if known else name

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.state, self.reason, self.sqlstate, self.dead_letter)


Outcome.APPLIED = Outcome("applied")
Outcome.DEAD = Outcome("dead")
Outcome.PENDING = Outcome("pending")


def _made(state: Any, reason: str | None, sqlstate: str | None, dead_letter: int | None) -> Outcome:
    """An outcome out of a pickle; those that have no facts are the only ones of their kind."""
    if reason is None and sqlstate is None and dead_letter is None:
        return {"applied": Outcome.APPLIED, "dead": Outcome.DEAD}.get(state, Outcome.PENDING)
    return Outcome(state, reason, sqlstate, dead_letter)
