-- Dead letters by id.
SELECT id, event_id, shard, table_name, status, reason, sqlstate, attempts,
       (extract(epoch FROM accepted_at) * 1000)::bigint AS accepted_ms,
       (extract(epoch FROM dead_at) * 1000)::bigint AS dead_ms,
       message
FROM pipeline.dead_letter
WHERE namespace = %(namespace)s AND id = ANY(%(ids)s::bigint[])
ORDER BY id
