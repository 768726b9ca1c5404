-- Which of these events were applied (or dead-lettered) by the batches of a window.
SELECT DISTINCT applied.event_id
FROM pipeline.batch
CROSS JOIN LATERAL unnest(batch.event_ids) AS applied (event_id)
WHERE batch.namespace = %(namespace)s
  AND batch.shard = %(shard)s
  AND batch.seq BETWEEN %(first)s AND %(last)s
  AND applied.event_id = ANY(%(event_ids)s::text[])
