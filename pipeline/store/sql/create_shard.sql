-- The first batch of a shard makes its row.
INSERT INTO pipeline.shard (namespace, shard)
VALUES (%(namespace)s, %(shard)s)
ON CONFLICT DO NOTHING
