"""Adapters to what is around the pipeline: Celery, web frameworks, embedded servers. Each is optional."""
