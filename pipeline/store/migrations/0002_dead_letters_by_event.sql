-- Who waits for an event looks for it among the dead letters of its batch, which may be as many as the batch has events.
CREATE INDEX dead_letter_event ON pipeline.dead_letter (batch_id, event_id);
DROP INDEX pipeline.dead_letter_batch;
