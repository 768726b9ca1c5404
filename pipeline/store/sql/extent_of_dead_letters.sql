-- How many letters (of a table or all) are dead, and the highest id among them.
SELECT count(*) AS count, coalesce(max(id), 0) AS last
FROM pipeline.dead_letter
WHERE namespace = %(namespace)s
  AND status = 'dead'
  AND (%(table_name)s::text IS NULL OR table_name = %(table_name)s)
