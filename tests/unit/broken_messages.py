"""Messages that no worker must be given: every kind that we could think of, by name.

Each is what could lie in the ingress queue: bytes, and a part of the reason that its dead letter gives.
"""

from __future__ import annotations

import base64
import bz2
import json
import zlib
from typing import Any

from tests.unit.messages import TASK

CHANGE: dict[str, Any] = {"table": "page_views", "key": {"page_id": 1}, "add": {"views": 1}}
DEEP = 100_000
MEGABYTES_50 = 50 * 1024 * 1024


def stock(task_id: str = "an-id", kwargs: object = None, **headers: Any) -> dict[str, Any]:
    """What a stock client publishes, its body still open to be replaced."""
    return {
        "body": json.dumps([[], CHANGE if kwargs is None else kwargs, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": TASK, "id": task_id, "eta": None, "expires": None, **headers},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "pipeline"},
            "priority": 0,
            "delivery_tag": f"tag-{task_id}",
        },
    }


def raw(envelope: object, **changed: object) -> bytes:
    if isinstance(envelope, dict):
        envelope = {**envelope, **{name.replace("_", "-"): value for name, value in changed.items()}}
    return json.dumps(envelope).encode()


def without(part: str, name: str) -> bytes:
    envelope = stock()
    del envelope[part][name]
    return raw(envelope)


def body(text: str | bytes, **headers: Any) -> bytes:
    envelope = stock(**headers)
    if isinstance(text, bytes):
        envelope["properties"]["body_encoding"] = "base64"
        text = base64.b64encode(text).decode()
    return raw(envelope, body=text)


def properties(**changed: Any) -> bytes:
    envelope = stock()
    envelope["properties"] |= changed
    return raw(envelope)


def kwargs(**changed: Any) -> bytes:
    return raw(stock(kwargs={**CHANGE, **changed}))


def value(text: str) -> bytes:
    """A body whose value is this JSON, however wrong."""
    return body('[[],{"table":"page_views","key":{"page_id":1},"set":{"title":' + text + "}},{}]")


EIGHT: dict[str, tuple[bytes, str]] = {
    "no delivery tag": (without("properties", "delivery_tag"), "delivery_tag"),
    "no id": (without("headers", "id"), "id"),
    "a body of two items": (body(json.dumps([[], CHANGE])), "length 3"),
    "not JSON": (b"\x80nonsense", "not a Celery message"),
    "a body that cannot be decoded": (properties(body_encoding="base64"), "not a Celery message"),
    "a body that is no JSON": (body("nonsense"), "not a Celery message"),
    "an unknown task": (raw(stock(task="no.such.task")), "no.such.task"),
    "an unknown content type": (raw(stock(), content_type="application/x-unknown"), "application/x-unknown"),
}
"""The kinds of FACTS, which end, stop or silently pass a stock worker."""

ENVELOPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a Celery message"),
    "no UTF-8": (b'{"body": "\xff\xfe"}', "not a Celery message"),
    "half of a message": (raw(stock())[:-20], "not a Celery message"),
    "null": (b"null", "not a Celery message"),
    "a list": (b"[]", "not a Celery message"),
    "an empty object": (b"{}", "not a Celery message"),
    "a number": (b"7", "not a Celery message"),
    "no properties": (raw(stock(), properties=None), "not a Celery message"),
    "headers that are a list": (raw(stock(), headers=[]), "not a Celery message"),
    "a task that is a list": (raw(stock(task=["a"])), "not a Celery message"),
    "an id that is a number": (raw(stock(id=7)), "not a Celery message"),
    "an empty id": (raw(stock(id="")), "event id"),
    "nested deeply": (b"[" * DEEP, "not a Celery message"),
    "headers nested deeply": (raw(stock()).replace(b'"lang"', b'"x": ' + b"[" * DEEP + b"]" * DEEP + b', "lang"'), "n"),
    "a body that is an object": (raw(stock(), body={"a": 1}), "not a Celery message"),
    "no body": (raw(stock(), body=None), "not a Celery message"),
    "an unknown body encoding": (properties(body_encoding="rot13"), "rot13"),
    "no content type": (raw(stock(), content_type=None), "content type None"),
    "pickle": (body(b"cposix\nsystem\n(S'true'\ntR.") + b"", "not a Celery message"),
    "pickle that says so": (
        raw(json.loads(body(b"cposix\nsystem\n(S'true'\ntR.")), content_type="application/x-python-serialize"),
        "application/x-python-serialize",
    ),
    "YAML that says so": (raw(stock(), content_type="application/x-yaml"), "application/x-yaml"),
    "fifty megabytes of nothing": (b"x" * MEGABYTES_50, "message"),
}

BODIES: dict[str, tuple[bytes, str]] = {
    "an empty body": (body(""), "not a Celery message"),
    "a body of four items": (body(json.dumps([[], CHANGE, {}, {}])), "length 3"),
    "arguments that are a list": (body(json.dumps([[], [], {}])), "Expected `object`"),
    "positional arguments": (body(json.dumps([[1], CHANGE, {}])), "keyword arguments only"),
    "a body nested deeply": (body("[" * DEEP), "nested too deeply"),
    "a value nested deeply": (value("[" * DEEP + "]" * DEEP), "nested too deeply"),
    "a value nested deeper than ours": (value("[" * 100 + "]" * 100), "nested more than 64 deep"),
    "a lone surrogate": (value('"\\ud800"'), "not a Celery message"),
    "a NUL in text": (value('"\\u0000"'), "NUL"),
    "NaN": (value("NaN"), "not a Celery message"),
    "an infinity": (value("Infinity"), "not a Celery message"),
    "a number beyond all numbers": (value("1e999"), "out of range"),
    "an integer of five thousand digits": (value("9" * 5000), "out of range"),
    "an unknown typed value": (value('{"__type__": "set", "__value__": 1}'), "unknown type 'set'"),
    "an unknown field": (kwargs(bogus=1), "bogus"),
    "a table that is a number": (kwargs(table=7), "Expected `str`"),
    "an empty table": (kwargs(table=""), "not a table name"),
    "a table with a semicolon": (kwargs(table="page_views; DROP TABLE page_views; --"), "not a table name"),
    "a table with an open quote": (kwargs(table='page_views"'), "not a table name"),
    "a table of 64 bytes": (kwargs(table="t" * 64), "63 bytes"),
    "a table of 64 bytes in quotes": (kwargs(table='"' + "ü" * 32 + '"'), "63 bytes"),
    "a column of 64 bytes": (kwargs(set={"c" * 64: 1}), "63 bytes"),
    "a column of 64 bytes that are not ASCII": (kwargs(set={"ü" * 32: 1}), "63 bytes"),
    "an empty column": (kwargs(set={"": 1}), "column name"),
    "a column with a NUL": (kwargs(set={"a\x00": 1}), "column name"),
    "a key that is a list": (kwargs(key=[1]), "Expected `object`"),
    "no key": (kwargs(key={}), "key is needed"),
    "an increment that is text": (kwargs(add={"views": "1"}), "increment"),
    "no changes": (raw(stock(kwargs={"changes": []})), "no change"),
    "the same column twice": (kwargs(set={"views": 1}), "twice"),
}
"""These are wrong wherever they lie."""

AT_THE_DOOR: dict[str, tuple[bytes, str]] = {
    "no delivery info": (without("properties", "delivery_info"), "delivery_info"),
    "a body compressed by nobody": (body("x" * 20, compression="application/x-gzip"), "not compressed"),
    "an unknown compression": (body("x", compression="rar"), "rar"),
    "a bomb": (body(zlib.compress(b" " * MEGABYTES_50), compression="application/x-gzip"), "compressed body of more"),
    "a bomb of another kind": (body(bz2.compress(b" " * MEGABYTES_50), compression="bzip2"), "compressed body of more"),
    "callbacks that are none": (body(json.dumps([[], CHANGE, {"callbacks": [7]}])), "Expected `object`"),
    "a third item that is a list": (body(json.dumps([[], CHANGE, [1]])), "Expected `object | null`"),
    "a third item that would change the request": (body(json.dumps([[], CHANGE, {"id": 1}])), "unknown field"),
    "an eta that is no time": (raw(stock(eta="soon")), "eta that is no time"),
    "an eta that no clock shows": (raw(stock(eta="9999-12-31T23:59:59+00:00")), "no clock"),
    "expired": (raw(stock(expires="2020-01-01T00:00:00+00:00")), "expired at 2020"),
    "a time limit that is text": (raw(stock(timelimit=["soon", None])), "not a Celery message"),
    "retries that are text": (raw(stock(retries="1")), "not a Celery message"),
    "a routing key of a shard": (
        properties(delivery_info={"exchange": "", "routing_key": "pipeline.events.{x}"}),
        "pipeline.events",
    ),
    "fifty megabytes of an event": (kwargs(set={"title": "x" * MEGABYTES_50}), "PIPELINE_MAX_EVENT_BYTES"),
    "a group without a lane": (
        raw(stock(kwargs={"changes": [{**CHANGE, "key": {"page_id": n}} for n in range(9)]})),
        "shard_by=",
    ),
}
"""These the ingress refuses; in a shard queue, where only the pipeline writes, the flush looks at the event alone."""
