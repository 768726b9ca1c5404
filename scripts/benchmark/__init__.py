"""Measure this project beside what people use instead, in one run, interleaved, on the same servers and data."""
