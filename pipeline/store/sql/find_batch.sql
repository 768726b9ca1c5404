-- The seq under which a batch was applied and the events it held, if it was.
SELECT seq, event_ids FROM pipeline.batch WHERE batch_id = %(batch_id)s
