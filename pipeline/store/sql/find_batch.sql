-- The seq under which a batch was applied, if it was.
SELECT seq FROM pipeline.batch WHERE batch_id = %(batch_id)s
