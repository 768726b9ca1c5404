-- Remove everything that was measured on.
DROP SCHEMA IF EXISTS pipeline_bench CASCADE
