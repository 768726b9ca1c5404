-- A table by its name as SQL spells it; no row if there is none.
SELECT pg_class.oid::bigint, pg_namespace.nspname, pg_class.relname, pg_class.relkind
FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE pg_class.oid = to_regclass(%(name)s)
