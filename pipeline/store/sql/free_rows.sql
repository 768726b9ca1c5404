-- The numbers, from 1, of those keys on which nobody has a turn. A shared lock is taken and given back at once: readers do
-- not hinder each other, no more than one is held at a time, and none is left when the statement has ended.
SELECT wanted.number
FROM unnest(%(keys)s::bigint[]) WITH ORDINALITY AS wanted (key, number)
WHERE CASE WHEN pg_try_advisory_lock_shared(wanted.key) THEN pg_advisory_unlock_shared(wanted.key) ELSE false END
