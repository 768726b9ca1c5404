"""Broken messages without end, made from whole ones: does one of them escape from the decoder? See ``scripts/fuzz``."""
