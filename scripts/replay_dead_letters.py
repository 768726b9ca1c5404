#!/usr/bin/env python3
"""Write dead letters again: `pipeline dead-letters replay` as a script. See --help."""

import sys

try:
    from pipeline.cli import replay_dead_letters
except ModuleNotFoundError as error:
    sys.exit(f"replay_dead_letters.py: {error}; run it with the Python of an environment that has celery-write-behind")

replay_dead_letters()
