-- Enter a batch into the ledger and advance its shard. recheck_seconds: how long to look events up from now on, NULL to
-- leave that as it is. event_ids: joined by line feeds, which no id has; an array takes the driver much longer.
WITH entry AS (
    INSERT INTO pipeline.batch (namespace, shard, seq, batch_id, event_ids, row_count, dead_count)
    VALUES (%(namespace)s, %(shard)s, %(seq)s, %(batch_id)s, string_to_array(%(event_ids)s, E'\n'), %(row_count)s, %(dead_count)s)
)
UPDATE pipeline.shard
SET seq = %(seq)s,
    batch_id = %(batch_id)s,
    recheck_from = %(recheck_from)s,
    recheck_to = %(recheck_to)s,
    recheck_until = coalesce(now() + make_interval(secs => %(recheck_seconds)s), recheck_until),
    store_gaps = store_gaps + %(gaps)s,
    applied_at = now()
WHERE namespace = %(namespace)s AND shard = %(shard)s
