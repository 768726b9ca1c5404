"""A `Pipeline` to the tests, an `AsyncPipeline` behind it: what is tested of the one is tested of the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pipeline import AsyncPipeline, Config, Pipeline
from pipeline.client import Client
from pipeline.telemetry import Probe, ignore
from tests.driving import loop_in_a_thread

__all__ = ["Twin"]


class Twin(Pipeline):
    """What an application calls is done by an `AsyncPipeline`, in an event loop in a thread of its own."""

    def __init__(self, config: Config | None = None, probe: Probe = ignore) -> None:
        super().__init__(config, probe)
        self._stack = ExitStack()
        self._drive = self._stack.enter_context(loop_in_a_thread())
        self._twin = AsyncPipeline(self.config, probe)

    def ping(self) -> None:
        self._drive(self._twin.ping())

    def close(self) -> None:
        self._drive(self._twin.close())
        self._stack.close()
        super().close()


def _blocking(name: str) -> Callable[..., Any]:
    def call(self: Twin, *arguments: Any, **options: Any) -> Any:
        return self._drive(getattr(self._twin, name)(*arguments, **options))

    return call


for _name in [name for name in vars(Client) if not name.startswith("_")]:
    setattr(Twin, _name, _blocking(_name))
