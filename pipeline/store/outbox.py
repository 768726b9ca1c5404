"""Statements that travel together: every message to PostgreSQL and back wakes two processes, whatever is in it."""

from __future__ import annotations

from typing import Any

import psycopg

__all__ = ["Outbox"]


class Outbox:
    """Statements without parameters and results, which may wait for the next one on the same connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._waiting = b""

    def add(self, text: bytes) -> None:
        """Have ``text`` run before whatever is sent next; what else uses the connection must `send` first."""
        self._waiting += text + b"; "

    def send(self, text: bytes = b"") -> None:
        """Run what waits and then ``text``, in one message. Raises psycopg's errors, for any of them."""
        together, self._waiting = self._waiting + text, b""
        if together:
            self.connection.execute(together)
