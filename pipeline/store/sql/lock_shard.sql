-- Fence: whoever holds this row applies batches of the shard. NOWAIT, so that a second flusher leaves at once.
-- The window of batches to look events up in is over some time after Redis went back in time.
SELECT seq,
       batch_id,
       CASE WHEN recheck_until > now() THEN recheck_from END AS recheck_from,
       CASE WHEN recheck_until > now() THEN recheck_to END AS recheck_to
FROM pipeline.shard
WHERE namespace = %(namespace)s AND shard = %(shard)s
FOR UPDATE NOWAIT
