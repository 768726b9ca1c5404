-- What became of events, out of the batches of each shard behind a start, oldest first, at most so many of each shard.
-- A ledger that does not know the mark has gone back in time: then it is read from the floor. One row for each event that
-- was found, at least one for each batch. An event of a batch whose dead letters were deleted is found only if it has one.
SELECT wanted.shard,
       wanted.intact,
       batch.seq,
       batch.batch_id::text,
       CASE WHEN letter.id IS NOT NULL OR batch.dead_count = coalesce(kept.letters, 0) THEN found.event_id END AS event_id,
       letter.id,
       letter.reason,
       letter.sqlstate
FROM (
    SELECT asked.shard,
           asked.start,
           asked.floor,
           asked.mark IS NULL OR EXISTS (
               SELECT FROM pipeline.batch
               WHERE batch.namespace = %(namespace)s
                 AND batch.shard = asked.shard
                 AND batch.seq = asked.mark
                 AND batch.batch_id = asked.mark_id
           ) AS intact
    FROM unnest(
        %(shards)s::integer[], %(starts)s::bigint[], %(floors)s::bigint[], %(marks)s::bigint[], %(mark_ids)s::uuid[]
    ) AS asked (shard, start, floor, mark, mark_id)
) AS wanted
CROSS JOIN LATERAL (
    SELECT seq, batch_id, event_ids, dead_count
    FROM pipeline.batch
    WHERE batch.namespace = %(namespace)s
      AND batch.shard = wanted.shard
      AND batch.seq > CASE WHEN wanted.intact THEN wanted.start ELSE wanted.floor END
    ORDER BY seq
    LIMIT %(most)s
) AS batch
LEFT JOIN LATERAL (
    SELECT count(*) AS letters FROM pipeline.dead_letter WHERE dead_letter.batch_id = batch.batch_id
) AS kept ON batch.dead_count > 0
LEFT JOIN LATERAL (
    SELECT here.event_id
    FROM unnest(batch.event_ids) AS here (event_id)
    -- not a condition by itself, which would become a nested loop: so the ids are hashed
    WHERE (here.event_id IN (SELECT unnest(%(event_ids)s::text[]))) IS TRUE
) AS found ON true
LEFT JOIN LATERAL (
    SELECT id, reason, sqlstate
    FROM pipeline.dead_letter
    WHERE dead_letter.batch_id = batch.batch_id AND dead_letter.event_id = found.event_id
    ORDER BY id
    LIMIT 1
) AS letter ON batch.dead_count > 0
ORDER BY wanted.shard, batch.seq
