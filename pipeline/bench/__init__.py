"""Measure a pipeline beside what does the same work without one: for ``pipeline bench`` and for ``scripts/bench``."""
