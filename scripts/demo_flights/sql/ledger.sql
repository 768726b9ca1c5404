-- What the pipeline's ledger says it has done: events, dead letters among them, rows written.
SELECT
    coalesce(sum(cardinality(event_ids)), 0)::bigint,
    coalesce(sum(dead_count), 0)::bigint,
    coalesce(sum(row_count), 0)::bigint
FROM pipeline.batch
