-- The columns of a table. A domain is followed down to its base type; typmod is the one that is in force there.
WITH RECURSIVE base AS (
    SELECT attnum, atttypid AS typid, atttypmod AS typmod
    FROM pg_catalog.pg_attribute
    WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT base.attnum, pg_type.typbasetype, pg_type.typtypmod
    FROM base
    JOIN pg_catalog.pg_type ON pg_type.oid = base.typid
    WHERE pg_type.typtype = 'd'
)
SELECT a.attname,
       format_type(a.atttypid, a.atttypmod) AS type,
       format_type(base.typid, -1) AS plain_type, -- with NULL, bpchar would be "character", which is character(1)
       base.typmod,
       t.typname,
       t.typcategory = 'A' AS is_array,
       element.typname AS element_typname,
       coalesce(pg_get_expr(d.adbin, d.adrelid), CASE WHEN a.attgenerated = '' THEN pg_get_expr(own.typdefaultbin, 0) END)
           AS default_sql, -- a domain may have one
       a.attgenerated <> '' AS generated,
       CASE WHEN a.attgenerated <> '' THEN pg_get_expr(g.adbin, g.adrelid) END AS expression,
       a.attnotnull AS not_null,
       a.attidentity <> '' AS identity,
       a.attidentity = 'a' AS identity_always,
       CASE WHEN a.attcollation NOT IN (0, t.typcollation) -- a domain's own is lost in its base type
            THEN quote_ident(cn.nspname) || '.' || quote_ident(c.collname) END AS collation
FROM base
JOIN pg_catalog.pg_type t ON t.oid = base.typid AND t.typtype <> 'd'
JOIN pg_catalog.pg_attribute a ON a.attrelid = %(oid)s AND a.attnum = base.attnum
JOIN pg_catalog.pg_type own ON own.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type element ON element.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = ''
LEFT JOIN pg_catalog.pg_attrdef g ON g.adrelid = a.attrelid AND g.adnum = a.attnum AND a.attgenerated <> ''
LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = c.collnamespace
ORDER BY a.attnum
