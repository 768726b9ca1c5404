-- Letters that are dead, oldest first, between two ids (for paging), of a table or all.
SELECT id, event_id, shard, table_name, status, reason, sqlstate, attempts,
       (extract(epoch FROM accepted_at) * 1000)::bigint AS accepted_ms,
       (extract(epoch FROM dead_at) * 1000)::bigint AS dead_ms,
       message
FROM pipeline.dead_letter
WHERE namespace = %(namespace)s
  AND status = 'dead'
  AND (%(table_name)s::text IS NULL OR table_name = %(table_name)s)
  AND id > %(after)s
  AND id <= %(last)s
ORDER BY id
LIMIT %(limit)s
