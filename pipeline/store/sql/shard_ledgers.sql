-- What the ledger says of every shard, with its dead letters.
SELECT shard.shard,
       shard.seq,
       shard.recheck_from IS NOT NULL AND shard.recheck_until > now() AS rechecking,
       shard.store_gaps,
       (SELECT count(*)
        FROM pipeline.dead_letter
        WHERE dead_letter.namespace = shard.namespace
          AND dead_letter.shard = shard.shard
          AND dead_letter.status = 'dead') AS dead_letters
FROM pipeline.shard
WHERE shard.namespace = %(namespace)s
ORDER BY shard.shard
