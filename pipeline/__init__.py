"""A write-behind pipeline: writes land in Redis and reach PostgreSQL in batches, exactly once, in order."""

from pipeline.asynchronous import AsyncPipeline
from pipeline.config import Config
from pipeline.core.change import Change
from pipeline.core.outcome import Outcome
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
    StillPending,
    StoreError,
    StoreUnavailable,
    TopologyMismatch,
)
from pipeline.reading import StaleRow
from pipeline.receipts import AsyncReceipt, Receipt
from pipeline.wiring import Pipeline

__all__ = [
    "ApplyFailed",
    "AsyncPipeline",
    "AsyncReceipt",
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
    "Outcome",
    "Pipeline",
    "PipelineError",
    "PipelineFull",
    "Receipt",
    "StaleRow",
    "StillPending",
    "StoreError",
    "StoreUnavailable",
    "TopologyMismatch",
]
