"""celery-batches, in an environment of its own: nothing of this project is installed there."""
