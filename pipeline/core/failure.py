"""What an error of PostgreSQL means for a batch: one table from SQLSTATE to meaning.

The codes are those of the PostgreSQL manual, appendix A. The longest prefix wins, so that ``23503`` can differ from the
rest of class ``23``. An error without a SQLSTATE is a broken connection. What the table does not know is not transient:
it is tried a bounded number of times.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["Contact", "Meaning", "classify"]


class Meaning(StrEnum):
    """What to do about an error follows from what it means; `pipeline.core.verdict` decides it."""

    OUTAGE = "outage"  # the database is away or out of resources: keep the batch and wait, for ever
    CONFLICT = "conflict"  # another transaction was in the way: try again
    BUSY = "busy"  # another flusher holds this shard: leave it alone
    TIMEOUT = "timeout"  # the statement took too long: wait, later try less at once
    POISON = "poison"  # the event is wrong: isolate it and bury it
    PARENT_MISSING = "parent missing"  # a referenced row may still be on its way
    SYSTEMIC = "systemic"  # the schema or the grants are wrong: no event is to blame
    UNKNOWN = "unknown"  # tried a bounded number of times, then treated as poison


class Contact(StrEnum):
    """Whether PostgreSQL was there when something went wrong."""

    KEPT = "kept"  # it said what is wrong, the connection broke before the batch was begun, or we ended a silent one
    LOST = "lost"  # the connection broke while the batch was being written: that may be the batch's fault
    NEVER = "never"  # no connection could be had: the batch was not even tried


_MEANINGS: Final[dict[str, Meaning]] = {
    "08": Meaning.OUTAGE,  # connection exception
    "53": Meaning.OUTAGE,  # insufficient resources: disk full, out of memory, too many connections
    "55": Meaning.OUTAGE,  # lock not available, object in use
    "55000": Meaning.SYSTEMIC,  # object not in prerequisite state: no replica identity, a view that cannot be written
    "HV": Meaning.OUTAGE,  # foreign data wrapper: the server behind a foreign table
    "XX001": Meaning.OUTAGE,  # data corrupted: repair it, and nothing is lost
    "XX002": Meaning.OUTAGE,  # index corrupted
    "57P": Meaning.OUTAGE,  # admin shutdown, crash shutdown, cannot connect now
    "58": Meaning.OUTAGE,  # system error: I/O
    "57014": Meaning.TIMEOUT,  # query canceled by statement_timeout
    "40001": Meaning.CONFLICT,  # serialization failure
    "40P01": Meaning.CONFLICT,  # deadlock detected
    "25P02": Meaning.CONFLICT,  # in failed transaction
    "25P03": Meaning.OUTAGE,  # idle in transaction session timeout: this process was stalled
    "25P04": Meaning.OUTAGE,  # transaction timeout
    "25006": Meaning.OUTAGE,  # read-only transaction: a failover is under way
    "22": Meaning.POISON,  # data exception
    "23": Meaning.POISON,  # integrity constraint violation
    "23503": Meaning.PARENT_MISSING,  # foreign key violation
    "21000": Meaning.POISON,  # MERGE met one row twice: two keys of the batch are equal to PostgreSQL, not to us
    "54": Meaning.POISON,  # program limit exceeded: an index row too large, a value too complex
    "42P01": Meaning.SYSTEMIC,  # undefined table
    "42703": Meaning.SYSTEMIC,  # undefined column
    "42501": Meaning.SYSTEMIC,  # insufficient privilege
    "42804": Meaning.SYSTEMIC,  # datatype mismatch
    "42809": Meaning.SYSTEMIC,  # wrong object type: the target is no table
    "42883": Meaning.SYSTEMIC,  # undefined function; but see `pipeline.store.diagnosis`
    "42704": Meaning.SYSTEMIC,  # undefined object
    "42P02": Meaning.SYSTEMIC,  # undefined parameter
    "42P10": Meaning.SYSTEMIC,  # the table has no unique key
    "0A000": Meaning.SYSTEMIC,  # feature not supported: MERGE into such a relation
    "28": Meaning.SYSTEMIC,  # invalid authorization
    "3D": Meaning.SYSTEMIC,  # invalid catalog name: no such database
    "3F": Meaning.SYSTEMIC,  # invalid schema name
}


def classify(sqlstate: str | None) -> Meaning:
    """The meaning of a SQLSTATE; ``None`` is a connection that broke."""
    if sqlstate is None:
        return Meaning.OUTAGE
    for length in (5, 3, 2):
        if (meaning := _MEANINGS.get(sqlstate[:length])) is not None:
            return meaning
    return Meaning.UNKNOWN
