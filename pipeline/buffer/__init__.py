"""The part that lives in Redis (or Valkey): queues, frozen batches, overlays and cached rows."""
