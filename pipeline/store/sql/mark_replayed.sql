-- A dead letter was written again; nothing happens if it was already.
WITH marked AS (
    UPDATE pipeline.dead_letter
    SET status = 'replayed'
    WHERE namespace = %(namespace)s AND id = %(id)s AND status = 'dead'
    RETURNING id
)
INSERT INTO pipeline.replay (dead_letter_id, action, event_id, forced, actor)
SELECT id, 'replay', %(event_id)s, %(forced)s, %(actor)s FROM marked
