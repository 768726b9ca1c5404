"""A write-behind pipeline: writes land in Redis and reach PostgreSQL in batches, exactly once, in order."""

from pipeline.asynchronous import AsyncPipeline
from pipeline.config import Config
from pipeline.core.change import Change
from pipeline.errors import (
    ApplyFailed,
    BufferUnavailable,
    ChangeRefused,
    DurabilityNotReached,
    EventTooLarge,
    InvalidEvent,
    InvalidRead,
    InvalidSetting,
    NotMigrated,
    NotSettled,
    PipelineError,
    PipelineFull,
    StoreError,
    StoreUnavailable,
    TopologyMismatch,
)
from pipeline.reading import StaleRow
from pipeline.wiring import Pipeline
from pipeline.writer import Receipt

__all__ = [
    "ApplyFailed",
    "AsyncPipeline",
    "BufferUnavailable",
    "Change",
    "ChangeRefused",
    "Config",
    "DurabilityNotReached",
    "EventTooLarge",
    "InvalidEvent",
    "InvalidRead",
    "InvalidSetting",
    "NotMigrated",
    "NotSettled",
    "Pipeline",
    "PipelineError",
    "PipelineFull",
    "Receipt",
    "StaleRow",
    "StoreError",
    "StoreUnavailable",
    "TopologyMismatch",
]
