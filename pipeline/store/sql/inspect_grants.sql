-- The rights that the flush, its maintenance and the replay need and this role does not have.
SELECT needed.privilege || ' on pipeline.' || needed.relation AS missing
FROM (VALUES ('shard', 'SELECT'), ('shard', 'INSERT'), ('shard', 'UPDATE'),
             ('batch', 'SELECT'), ('batch', 'INSERT'), ('batch', 'DELETE'),
             ('dead_letter', 'SELECT'), ('dead_letter', 'INSERT'), ('dead_letter', 'UPDATE'),
             ('replay', 'INSERT')) AS needed (relation, privilege)
JOIN pg_catalog.pg_namespace n ON n.nspname = 'pipeline'
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = needed.relation
WHERE NOT has_table_privilege(c.oid, needed.privilege)
UNION ALL
SELECT 'USAGE on schema pipeline'
FROM pg_catalog.pg_namespace
WHERE nspname = 'pipeline' AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'TEMPORARY on database ' || current_database()
WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
ORDER BY missing
