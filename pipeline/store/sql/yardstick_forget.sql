-- Forget the ledger of a pipeline that was only there to be measured.
WITH batches AS (
    DELETE FROM pipeline.batch WHERE namespace = %(namespace)s
), letters AS (
    DELETE FROM pipeline.dead_letter WHERE namespace = %(namespace)s
)
DELETE FROM pipeline.shard WHERE namespace = %(namespace)s
