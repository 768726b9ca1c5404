SELECT coalesce(sum(row_count), 0)::bigint FROM pipeline.batch
