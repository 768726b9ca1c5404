-- Whose schema it is, so that the next run may remove what a killed one has left.
COMMENT ON SCHEMA pipeline_bench IS 'made by pipeline bench'
