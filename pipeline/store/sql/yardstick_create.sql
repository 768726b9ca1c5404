-- The schema in which writing without a pipeline is measured.
CREATE SCHEMA pipeline_bench
