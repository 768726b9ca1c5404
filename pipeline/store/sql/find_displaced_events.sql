-- Which of these events were applied (or dead-lettered) by any batch since they were accepted; the clocks of Redis and of this
-- server may differ by an hour.
SELECT DISTINCT applied.event_id
FROM pipeline.batch
CROSS JOIN LATERAL unnest(batch.event_ids) AS applied (event_id)
WHERE batch.namespace = %(namespace)s
  AND batch.shard = %(shard)s
  AND batch.applied_at >= to_timestamp(%(accepted_ms)s / 1000.0) - interval '1 hour'
  AND applied.event_id = ANY(%(event_ids)s::text[])
