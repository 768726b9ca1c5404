-- Ids hardly shrink, and to try it took PostgreSQL as long as half of a narrow batch's MERGE: 40 bytes an event, not 24.
ALTER TABLE pipeline.batch ALTER COLUMN event_ids SET STORAGE EXTERNAL;
