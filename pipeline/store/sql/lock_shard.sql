-- Fence: whoever holds this row applies batches of the shard. NOWAIT, so that a second flusher leaves at once.
SELECT seq, batch_id, recheck_from
FROM pipeline.shard
WHERE namespace = %(namespace)s AND shard = %(shard)s
FOR UPDATE NOWAIT
