-- Keep others out until this session ends: locked. The comment of the schema that is there: ours says who made it, the
-- empty text means that somebody else did, NULL that there is none.
SELECT pg_try_advisory_lock(hashtext('pipeline bench'), 0) AS locked,
       (SELECT CASE obj_description(oid, 'pg_namespace') WHEN 'made by pipeline bench' THEN 'ours' ELSE '' END
        FROM pg_namespace
        WHERE nspname = %(schema)s) AS comment
