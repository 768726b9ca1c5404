"""What an error of PostgreSQL says and means."""

from __future__ import annotations

import re
from typing import Final

import psycopg

from pipeline.core.failure import Meaning, classify

__all__ = ["BLAMED", "meaning_of", "public_text", "text_of_error"]

BLAMED: Final = frozenset({Meaning.POISON, Meaning.PARENT_MISSING, Meaning.UNKNOWN, Meaning.SYSTEMIC})
"""Errors that may be one row's fault: look for it. Everything else ends the attempt for the whole batch."""

_VALUE: Final = re.compile(r"COPY .+, line \d+, column |(unnamed portal|portal \".*\") parameter \$\d+")
"""How the context of an error begins that one of PostgreSQL's input functions raised: with the value it was reading."""

_FUNCTION: Final = re.compile(r"^PL/pgSQL function \S+", re.MULTILINE)


def meaning_of(error: Exception) -> Meaning:
    """What an error means.

    Two kinds look as if the schema were wrong, and it is the event. A function that does not exist (42883) is missed by
    a trigger; outside of one it is an operator that our statement needs for a verb, such as ``max`` of a ``json``. And
    a value of a type like ``regclass`` names something that does not exist.
    """
    meaning = classify(getattr(error, "sqlstate", None))
    if meaning is not Meaning.SYSTEMIC or not isinstance(error, psycopg.Error):
        return meaning
    context = error.diag.context or ""
    operator = error.sqlstate == "42883" and not context
    value = (error.sqlstate or "").startswith("42") and _VALUE.match(context)
    return Meaning.UNKNOWN if operator or value else meaning


def text_of_error(error: Exception) -> str:
    """The message of an error, with PostgreSQL's detail, without the position in our own SQL. It may quote a row."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        detail = error.diag.message_detail
        return error.diag.message_primary + (f" ({detail})" if detail else "")
    return str(error).strip() or type(error).__name__


def public_text(error: Exception) -> str:
    """What may be logged of an error about the server or the schema (law L9).

    The detail may quote a row. So may the message, if a function raised it, or one that reads a value: then it is said
    what is wrong, and where.
    """
    if not isinstance(error, psycopg.Error) or not error.diag.message_primary:
        return text_of_error(error)
    context = error.diag.context
    if not context or classify(error.sqlstate) is not Meaning.SYSTEMIC:
        return error.diag.message_primary
    function = _FUNCTION.search(context)
    return type(error).__name__ + (f" in {function.group()}" if function else "")
