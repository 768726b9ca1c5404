-- What is known of each table, as a hash: how it is written, its columns, its indexes and its foreign keys. No row for a
-- table that is gone. (Of how long an array is, PostgreSQL guesses more if a plan is to be kept than if it is not, so that it
-- never is, and to plan takes three times as long as all the rest. Of JSON it guesses the same.)
SELECT wanted.name,
       md5(concat_ws(
           '|',
           pg_class.oid,
           concat_ws(',', pg_class.relhasrules, pg_class.relrowsecurity, pg_class.relhassubclass),
           (SELECT string_agg(concat_ws(',', t.oid, t.tgenabled), ';' ORDER BY t.oid)
            FROM pg_catalog.pg_trigger t
            WHERE t.tgrelid = pg_class.oid AND t.tgtype & 7 = 7),
           (SELECT string_agg(
                       concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attidentity, a.attnotnull,
                                 a.attcollation, pg_get_expr(d.adbin, d.adrelid), own.typdefault), -- a domain has one
                       ';' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a
            JOIN pg_catalog.pg_type own ON own.oid = a.atttypid
            LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = pg_class.oid AND a.attnum > 0 AND NOT a.attisdropped),
           (SELECT string_agg(
                       concat_ws(',', i.indexrelid, i.indkey::text, i.indisunique, i.indisvalid, i.indimmediate),
                       ';' ORDER BY i.indexrelid)
            FROM pg_catalog.pg_index i
            WHERE i.indrelid = pg_class.oid),
           (SELECT string_agg(concat_ws(',', k.oid, k.conrelid, k.confrelid, k.confdeltype), ';' ORDER BY k.oid)
            FROM pg_catalog.pg_constraint k
            WHERE k.contype = 'f' AND pg_class.oid IN (k.conrelid, k.confrelid))
       )) AS fingerprint
FROM json_array_elements_text(to_json(%(names)s::text[])) AS wanted (name)
JOIN pg_catalog.pg_class ON pg_class.oid = to_regclass(wanted.name)
