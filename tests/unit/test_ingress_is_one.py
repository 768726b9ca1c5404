"""Taken in bulk or by a worker, a message is the same event, or refused for the same reason, or left to Celery."""

import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, signature
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.utils.json import dumps, loads

from pipeline import Config, Pipeline
from pipeline.contrib._celery_guard import read_as_celery
from pipeline.contrib.celery import register
from pipeline.core.change import Change, changes_of
from pipeline.core.intake import ForCelery, Refused, read
from pipeline.ports import Encoded
from scripts.fuzzing.__main__ import whole_messages
from scripts.fuzzing.mutants import Mutants
from tests.unit.broken_messages import AT_THE_DOOR, BODIES, CHANGE, EIGHT, ENVELOPES, body, kwargs, raw, stock
from tests.unit.messages import TASK, message
from tests.unit.strategies import changes

MUTANTS = 3_000
BROKEN = {**EIGHT, **ENVELOPES, **BODIES, **AT_THE_DOOR}
NOW = datetime.now(UTC)
MAX_BYTES = Config().max_event_bytes


class Paths:
    """Both ways of a message, as far as they do not need Redis."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(Config())
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        register(self.app, self.pipeline)
        connection: Any = Connection("memory://")
        self.channel = connection.channel()
        self.channel.queue_declare("pipeline")

    def bulk(self, raw: bytes) -> Encoded | Refused | ForCelery:
        return self.pipeline.ingress.sort(raw, NOW, read_as_celery)

    def worker(self, raw: bytes) -> Encoded | str:
        """The event that the task writes, from what kombu and Celery make of the message; or why it gets none."""
        reason = self.pipeline.ingress.refusal(raw, self.app.tasks, NOW, read_as_celery)
        if reason is not None:
            return reason
        found = self.channel.Message(loads(raw.decode()), channel=self.channel)
        headers = found.headers
        if "task" in headers:
            positional, arguments, _ = found.decode()
            task_id = headers["id"]
        else:
            protocol_1 = found.decode()
            positional, arguments, task_id = protocol_1["args"], protocol_1["kwargs"], protocol_1["id"]
        assert not positional
        shard_by = arguments.pop("shard_by", None)
        return self.pipeline._parts.writer.encode(changes_of(arguments), event_id=task_id, shard_by=shard_by)

    def agree(self, raw: bytes) -> Encoded | Refused | ForCelery:
        """What the message is in bulk; fails if a worker of Celery would make something else of it."""
        found = self.bulk(raw)
        match found:
            case Refused(reason):
                assert self.worker(raw) == reason
            case ForCelery():
                pass
            case event:
                assert self.worker(raw) == event
        return found

    def agree_on_the_short_way(self, raw: bytes) -> bool:
        """Whether the message is an ordinary one; fails if it would be another event if it were not."""
        ingress = self.pipeline.ingress
        ordinary = ingress._ordinary(raw)
        if ordinary is not None:
            assert ingress._any(raw, NOW, read_as_celery) == ordinary
        return ordinary is not None

    def sent(self, **options: Any) -> bytes:
        """What lies in the queue after ``send_task``; the Redis transport stores exactly this text."""
        self.app.send_task(TASK, **{"kwargs": CHANGE, "queue": "pipeline", **options})
        return self.published()

    def published(self) -> bytes:
        return dumps(self.channel._get("pipeline")).encode()


@pytest.fixture(scope="module")
def paths() -> Iterator[Paths]:
    both = Paths()
    yield both
    both.app.close()


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_refused_on_both_ways_for_one_reason(paths: Paths, kind: str) -> None:
    message, reason = BROKEN[kind]
    found = paths.bulk(message)
    if kind == "an unknown task":  # which tasks a worker knows, only that worker can say
        assert found == ForCelery("no.such.task")
        return
    assert isinstance(found, Refused)
    assert reason in found.reason
    assert paths.worker(message) == found.reason


@settings(max_examples=50)
@given(st.lists(changes, min_size=1, max_size=3), st.sampled_from([None, "one"]))
def test_what_a_client_sends_is_one_event_on_both_ways(
    paths: Paths, changes: list[Change], shard_by: str | None
) -> None:
    if shard_by is None:
        arguments = _arguments(changes[0])
    else:
        arguments = {"changes": [_arguments(change) for change in changes], "shard_by": shard_by}
    assert isinstance(paths.agree(paths.sent(kwargs=arguments)), Encoded)


def _arguments(change: Change) -> dict[str, Any]:
    """What is given for it: an empty part may be left out, but an insert of nothing but defaults is one."""
    fields = {name: getattr(change, name) for name in Change.__struct_fields__}
    return {name: value for name, value in fields.items() if name in {"table", "insert"} or value}


def test_a_mutant_is_the_same_on_both_ways(paths: Paths) -> None:
    mutants = Mutants([*whole_messages(), paths.sent(), raw(stock())], 20_261_122)
    kinds = [type(paths.agree(mutants.next())) for _ in range(MUTANTS)]
    assert kinds.count(Encoded) > MUTANTS / 100
    assert kinds.count(Refused) > MUTANTS / 2


def test_what_is_plain_celery_can_read(paths: Paths) -> None:
    mutants = Mutants([paths.sent(), raw(stock()), body(json.dumps([[], {**CHANGE, "set": {"t": "é"}}, {}]))], 7)
    plain = 0
    for _ in range(MUTANTS):
        mutant = mutants.next()
        try:
            found = read(mutant, TASK, MAX_BYTES)
        except (ValueError, RecursionError):
            continue
        plain += found.plain
        if found.plain:
            read_as_celery(mutant)
        if found.plain_body:
            read_as_celery(found.body)
    assert plain > MUTANTS / 100


texts = st.text(max_size=5) | st.sampled_from(["__type__", "__value__", "a\x00b", "%&=:"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
) | st.sampled_from([10**4211, 10**4250, [[[10**4250]]]])
columns = st.dictionaries(st.sampled_from("abcd") | texts, json_values, min_size=1, max_size=3)
any_arguments = st.fixed_dictionaries(
    {"table": st.sampled_from(["page_views", '"Page"', "a.b.c", ""])},
    optional={
        "key": st.dictionaries(st.sampled_from("ef"), st.integers() | texts, min_size=1) | columns,
        "set": columns,
        "add": st.dictionaries(st.sampled_from("gh"), st.integers() | st.floats(allow_nan=False)) | columns,
        "max": columns,
        "min": columns,
        "delete": st.booleans(),
        "insert": columns | st.none(),
        "shard_by": texts,
    },
)


@settings(max_examples=400)
@given(any_arguments)
def test_what_is_ordinary_is_the_event_that_it_would_be_without_the_short_way(paths: Paths, arguments: Any) -> None:
    paths.agree_on_the_short_way(paths.sent(kwargs=arguments))


def test_a_mutant_of_a_stock_message_is_the_same_without_the_short_way(paths: Paths) -> None:
    sent = [paths.sent(), paths.sent(kwargs={**CHANGE, "set": {"t": "é", "n": None}}), paths.sent(stamps={"a": "b"})]
    mutants = Mutants(sent, 20_261_122)
    ordinary = sum(paths.agree_on_the_short_way(mutants.next()) for _ in range(MUTANTS))
    assert ordinary > MUTANTS / 100


@pytest.mark.parametrize(
    "options", [{}, {"kwargs": {**CHANGE, "set": {"a": [1.5, None, {"b": "é"}]}}}, {"priority": 3}]
)
def test_what_stock_clients_send_goes_the_short_way(paths: Paths, options: Any) -> None:
    assert paths.agree_on_the_short_way(paths.sent(**options))


@pytest.mark.parametrize("mark", ["__type__", "\\u005f_type__", "__typ\\u0065__"])
def test_a_typed_value_is_found_however_its_mark_is_spelled(paths: Paths, mark: str) -> None:
    value = f'{{"{mark}": "uuid", "__value__": {{"hex": "{UUID(int=7).hex}"}}}}'
    sent = json.loads(paths.sent())
    change = f'{{"table": "t", "key": {{"id": 1}}, "set": {{"u": {value}}}}}'
    sent["body"] = b64encode(f"[[], {change}, {{}}]".encode()).decode()
    found = paths.agree(raw(sent))
    assert isinstance(found, Encoded)
    assert '"__type__\\":' in found.body
    assert not paths.agree_on_the_short_way(raw(sent))


@pytest.mark.parametrize("digits", [4200, 4214, 4216, 4290])
def test_an_integer_has_too_many_digits_on_both_ways(paths: Paths, digits: int) -> None:
    sent = paths.sent(kwargs={**CHANGE, "set": {"n": 10**digits}})
    paths.agree_on_the_short_way(sent)
    assert isinstance(paths.agree(sent), Encoded if digits <= 4214 else Refused)


@pytest.mark.parametrize(
    "options", [{}, {"countdown": -3600}, {"expires": 3600}, {"compression": "gzip"}, {"retries": 3}]
)
def test_what_stock_clients_send_is_an_event_that_celery_need_not_read(paths: Paths, options: Any) -> None:
    sent = paths.sent(**options)
    assert read(sent, TASK, MAX_BYTES).plain
    assert isinstance(paths.agree(sent), Encoded)


@pytest.mark.parametrize(
    "sent",
    [
        body('[[],{"table":"t","key":{"id":1},"set":{"a":{"__type__":"uuid","__value__":{"hex":"no"}}}},{}]'),
        body('[[],{"table":"t","key":{"id":1},"set":{"a":{"\\u005f_type__":"uuid","__value__":{"hex":"no"}}}},{}]'),
        raw(stock(trace={"__type__": "uuid", "__value__": {"hex": "no"}})),
        raw(stock(trace="x")).replace(b'"trace": "x"', b'"trace": ' + b"9" * 5000),
        raw(stock(stamps={"a": {"__type__": "uuid", "__value__": {"hex": "no"}}})),
        raw(stock(stamps={"__type__": "uuid", "__value__": "no"})),
        raw(stock(stamps={"__type__": "uuid", "__value__": "no"})).replace(
            b'"headers": {', b'"headers": {"stamps": {}, '
        ),
        raw(stock(stamps={"\\": "uuid", "__value__": "no"})).replace(b"\\\\", rb"\u005f_t\u0079pe__"),
    ],
)
def test_what_only_celery_cannot_read_is_refused_on_both_ways(paths: Paths, sent: bytes) -> None:
    assert isinstance(paths.agree(sent), Refused)


def test_an_event_that_is_due_later_is_left_to_celery(paths: Paths) -> None:
    assert paths.bulk(raw(stock(eta=(NOW + timedelta(seconds=1)).isoformat()))) == ForCelery(TASK)
    assert isinstance(paths.agree(raw(stock(eta=(NOW - timedelta(seconds=1)).isoformat()))), Encoded)


def test_an_event_that_other_tasks_follow_is_left_to_celery(paths: Paths) -> None:
    follows = signature("shop.greet", app=paths.app, immutable=True)
    assert paths.bulk(paths.sent(link=follows)) == ForCelery(TASK)
    assert paths.bulk(paths.sent(link_error=follows)) == ForCelery(TASK)
    event = signature(TASK, kwargs=CHANGE, app=paths.app, immutable=True, queue="pipeline")
    chain(event, follows).apply_async()
    assert paths.bulk(paths.published()) == ForCelery(TASK)


def test_an_event_for_celery_is_refused_before_it_waits(paths: Paths) -> None:
    late = json.loads(kwargs(bogus=1))
    late["headers"]["eta"] = (NOW + timedelta(days=1)).isoformat()
    assert isinstance(paths.agree(raw(late)), Refused)


def test_a_task_of_others_is_left_to_celery(paths: Paths) -> None:
    assert paths.bulk(raw(stock(task="shop.greet"))) == ForCelery("shop.greet")


def test_our_own_messages_are_events_on_both_ways(paths: Paths) -> None:
    ours = message("an-id", [Change("t", {"id": 1}, {"a": 1})]).replace(b"pipeline.events.{3}", b"pipeline")
    assert isinstance(paths.agree(ours), Encoded)
