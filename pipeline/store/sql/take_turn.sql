-- Wait for the turn on a row, for a time, until the end of the transaction. Each later wait for a lock has this limit, too.
-- The lane keeps out a flush that deletes rows which it does not find: the row may be the one that is made now.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true),
       pg_advisory_xact_lock(%(key)s),
       pg_advisory_xact_lock_shared(%(lane)s)
