-- How many rows this session has put into tables since it reported its numbers, some moment before this transaction; none if
-- the server does not count.
SELECT oid::bigint, coalesce(pg_stat_get_xact_tuples_inserted(oid), 0)
FROM unnest(%(oids)s::oid[]) AS _ (oid)
