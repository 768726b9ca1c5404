"""The settings of the service: the only place that reads the environment.

A wrong value ends the process with the name of the variable; see ``pipeline.config.Config`` for all of them.
"""

from __future__ import annotations

import os

from pipeline import Config
from pipeline.errors import InvalidSetting

__all__ = ["CONFIG"]

try:
    CONFIG = Config.from_mapping(os.environ)
except InvalidSetting as error:  # Celery would make a traceback of three pages of it
    raise SystemExit(str(error)) from None
