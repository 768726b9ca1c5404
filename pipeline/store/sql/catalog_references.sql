-- Every foreign key between two tables: (referencing, referenced).
SELECT DISTINCT conrelid::bigint, confrelid::bigint
FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND conrelid <> confrelid
