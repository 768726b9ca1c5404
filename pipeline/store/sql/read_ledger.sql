-- Which of these events are applied: by a batch behind the one that Redis acknowledged last, or by one of the window that
-- is looked up after Redis went back in time. And whether it has, or seems to have.
SELECT shard.seq > %(seq)s OR coalesce(shard.recheck_until > now(), false) AS fragile,
       ARRAY(
           SELECT applied.event_id
           FROM pipeline.batch
           CROSS JOIN LATERAL unnest(batch.event_ids) AS applied (event_id)
           WHERE batch.namespace = %(namespace)s
             AND batch.shard = %(shard)s
             AND batch.seq > %(seq)s
             AND applied.event_id = ANY(%(event_ids)s::text[])
           UNION
           SELECT applied.event_id
           FROM pipeline.batch
           CROSS JOIN LATERAL unnest(batch.event_ids) AS applied (event_id)
           WHERE batch.namespace = %(namespace)s
             AND batch.shard = %(shard)s
             AND batch.seq BETWEEN shard.recheck_from AND shard.recheck_to
             AND shard.recheck_until > now()
             AND applied.event_id = ANY(%(event_ids)s::text[])
       ) AS applied
FROM pipeline.shard
WHERE shard.namespace = %(namespace)s AND shard.shard = %(shard)s
