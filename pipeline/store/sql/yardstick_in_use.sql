-- Whether the ledger or a dead letter knows the namespace.
SELECT EXISTS (SELECT FROM pipeline.shard WHERE namespace = %(namespace)s)
    OR EXISTS (SELECT FROM pipeline.batch WHERE namespace = %(namespace)s)
    OR EXISTS (SELECT FROM pipeline.dead_letter WHERE namespace = %(namespace)s)
