-- How many rows this session has put into a table since it reported its numbers, some moment before this transaction; none if
-- the server does not count.
SELECT coalesce(pg_stat_get_xact_tuples_inserted(%(oid)s::oid), 0)
