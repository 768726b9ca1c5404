-- Wait until no row of the shard is being written through, and keep it so until the end of the transaction.
SELECT pg_advisory_xact_lock(%(lane)s)
