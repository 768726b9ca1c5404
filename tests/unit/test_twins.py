"""An application finds the same methods in `Pipeline` and in `AsyncPipeline`: they do not drift apart."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from pipeline import AsyncPipeline, AsyncReceipt, Pipeline, Receipt
from pipeline.client import Client, R

METHODS = sorted(name for name in vars(Client) if not name.startswith("_"))
NEITHER_READS_NOR_WRITES = ("close", "from_env", "ping")
OF_THE_SERVICE = {
    "dead_letters", "doctor", "drain", "flush_shard", "ingress", "ledger", "migrate", "replayer", "shards_to_flush",
    "reconcile", "sides", "status", "take_ingress",
}  # fmt: skip
"""What operates a pipeline, and is not for the code of an application."""


def signature(method: Callable[..., Any], receipt: type) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    """The parameters and the types; each twin has a ``receipt`` of its own."""

    def known(hint: Any) -> Any:
        if hint in {R, receipt}:
            return "receipt"
        return hint[receipt] if getattr(hint, "__parameters__", ()) == (R,) else hint

    hints = {
        name: str(known(hint)).replace(repr(receipt)[8:-2], "receipt") for name, hint in get_type_hints(method).items()
    }
    return list(inspect.signature(method).parameters.values()), hints


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize("name", [*METHODS, *NEITHER_READS_NOR_WRITES])
def test_a_method_has_one_signature(name: str) -> None:
    assert signature(getattr(Pipeline, name), Receipt) == signature(getattr(AsyncPipeline, name), AsyncReceipt)


@pytest.mark.parametrize("name", [*METHODS, "close", "ping"])
def test_a_method_blocks_in_the_one_and_is_awaited_in_the_other(name: str) -> None:
    assert not inspect.iscoroutinefunction(getattr(Pipeline, name))
    assert inspect.iscoroutinefunction(getattr(AsyncPipeline, name))


def test_neither_has_a_method_for_applications_that_the_other_has_not() -> None:
    assert public(Pipeline) - OF_THE_SERVICE == public(AsyncPipeline) == {*METHODS, *NEITHER_READS_NOR_WRITES}
    assert len(METHODS) >= 7
