-- One dead letter.
INSERT INTO pipeline.dead_letter
    (namespace, shard, batch_id, event_id, table_name, reason, sqlstate, attempts, accepted_at, message)
VALUES
    (%(namespace)s, %(shard)s, %(batch_id)s, %(event_id)s, %(table_name)s, %(reason)s, %(sqlstate)s, %(attempts)s,
     to_timestamp(%(accepted_ms)s::float8 / 1000), %(message)s)
