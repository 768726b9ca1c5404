-- Forget batches that are older than the retention, but never the last one of a shard.
DELETE FROM pipeline.batch
USING pipeline.shard
WHERE batch.namespace = %(namespace)s
  AND shard.namespace = batch.namespace
  AND shard.shard = batch.shard
  AND batch.seq < shard.seq
  AND batch.applied_at < now() - make_interval(secs => %(retention_seconds)s)
