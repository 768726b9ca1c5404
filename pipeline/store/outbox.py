"""Statements that travel together: every message to PostgreSQL and back wakes two processes, whatever is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

__all__ = ["Outbox", "together"]


@contextmanager
def together(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Statements in the block are one message; their results are there behind it, and so is what went wrong.

    Raises psycopg's errors, or what ended the wait for the answer: a time limit of Celery, say. Instead of that,
    psycopg would only say that a connection in the middle of an answer cannot leave its pipeline mode.
    """
    first: BaseException | None = None
    try:
        with connection.pipeline():
            try:
                yield
            except psycopg.Error as error:
                first = error  # what is behind it is not done, which psycopg would write to its log
    except psycopg.Error as last:
        if first is None and connection.info.transaction_status is TransactionStatus.ACTIVE:
            first = last.__context__
        raise first or last from None
    if first is not None:
        raise first


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
