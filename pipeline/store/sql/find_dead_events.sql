-- The events of an applied batch that became dead letters.
SELECT event_id FROM pipeline.dead_letter WHERE batch_id = %(batch_id)s AND event_id IS NOT NULL
