"""Faults at random on real servers and processes, and an independent checker of what became of every event."""
