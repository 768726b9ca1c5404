-- A table by its name as SQL spells it; no row if there is none. Whether COPY into it does what INSERT does, and makes an error
-- of a row that is found in it already: one of a table that inherits from it is in no index of it, an index with another
-- collation or operator class may tell rows apart that are equal to the column, and a trigger may do anything before an
-- index is asked.
SELECT pg_class.oid::bigint,
       pg_namespace.nspname,
       pg_class.relname,
       pg_class.relkind,
       pg_class.relkind = 'r'
       AND NOT (pg_class.relhasrules OR pg_class.relrowsecurity OR pg_class.relhassubclass)
       AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_trigger t
           WHERE t.tgrelid = pg_class.oid AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D'  -- for each row, before, insert
       )
       AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_index i
           CROSS JOIN LATERAL unnest(i.indkey::smallint[], i.indcollation::oid[], i.indclass::oid[])
               AS part (attnum, collated, class)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attnum
           JOIN pg_catalog.pg_opclass c ON c.oid = part.class
           LEFT JOIN pg_catalog.pg_opclass usual
               ON usual.opcmethod = c.opcmethod AND usual.opcdefault AND usual.opcintype = a.atttypid
           WHERE i.indrelid = pg_class.oid AND i.indisunique
           AND (part.collated <> a.attcollation OR NOT c.opcdefault OR usual.opcfamily <> c.opcfamily)
       ) AS copies
FROM pg_catalog.pg_class
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE pg_class.oid = to_regclass(%(name)s)
