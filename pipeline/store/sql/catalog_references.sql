-- Every foreign key: (referencing, referenced, whether a delete there deletes or changes rows here).
SELECT DISTINCT conrelid::bigint, confrelid::bigint, confdeltype IN ('c', 'n', 'd') AS cascades
FROM pg_catalog.pg_constraint
WHERE contype = 'f'
