-- Whether a row of a table may change without a change of its key (a cascade from another table, a rule), and whether a
-- trigger may make something else of a change.
WITH parts AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::regclass)
)
SELECT EXISTS (
           SELECT FROM parts JOIN pg_catalog.pg_class ON pg_class.oid = parts.oid
           WHERE pg_class.relhasrules OR pg_class.relrowsecurity
       ) OR EXISTS (
           SELECT FROM parts JOIN pg_catalog.pg_constraint ON pg_constraint.conrelid = parts.oid
           WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
       ) OR EXISTS (
           SELECT FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class ON pg_class.oid = inhrelid
           WHERE inhparent = %(oid)s::oid AND NOT relispartition
       ) AS restless,
       EXISTS (
           SELECT FROM parts JOIN pg_catalog.pg_trigger ON pg_trigger.tgrelid = parts.oid
           WHERE NOT tgisinternal AND tgenabled <> 'D'
       ) AS triggered
