-- Wait for the turn on a row, for a time, until the end of the transaction. The wait for the row itself has this limit, too.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true), pg_advisory_xact_lock(%(key)s)
