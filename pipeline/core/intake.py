"""What may be given to Celery: a message that neither ends, nor stops, nor confuses a stock worker.

Celery reads a message field by field and trusts each: one without an id makes its worker reconnect for ever, a body
that is not three items ends the worker, a message without a delivery tag is lost without a word. So every message of
the ingress queue is read here first, strictly; what is refused goes to the dead letters as it is.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

import msgspec

from pipeline.core.change import Change
from pipeline.core.codec import ENCODINGS, body_of
from pipeline.errors import InvalidEvent

__all__ = ["ForCelery", "Intake", "Ordinary", "Refused", "fingerprint", "ordinary", "read"]

_Text = str | None
_Untyped = Annotated[str, msgspec.Meta(pattern="^(?!__type__$)")]
_NoArguments = Annotated[list[Any], msgspec.Meta(max_length=0)]
_SLACK_BYTES: Final = 65_536  # headers of a stock client: a copy of the arguments, ids, stamps
_GROWTH: Final = 4  # base64 of ASCII-only JSON: at most 16 bytes for a character that has 4 in UTF-8
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[5-7]")  # of those in __type__; others, as of Latin-1, are common
_YEARS: Final = range(1971, 9999)  # which every clock and time zone can count
_SHORT: Final = 4000  # bytes of a body: in so few there is no integer that has too many digits to travel


class _DeliveryInfo(msgspec.Struct, frozen=True):
    exchange: str
    routing_key: str


class _Properties(msgspec.Struct, frozen=True):
    delivery_tag: Annotated[str, msgspec.Meta(min_length=1)]
    delivery_info: _DeliveryInfo
    body_encoding: _Text = None
    correlation_id: _Text = None
    reply_to: _Text = None
    priority: int | None = None


class _Headers(msgspec.Struct, frozen=True):
    id: str | None = None
    task: str | None = None
    eta: _Text = None
    expires: _Text = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    timelimit: tuple[float | None, float | None] | None = None
    compression: _Text = None
    shadow: _Text = None
    lang: _Text = None
    meth: _Text = None
    group: _Text = None
    group_index: int | None = None
    root_id: _Text = None
    parent_id: _Text = None
    origin: _Text = None
    argsrepr: _Text = None
    kwargsrepr: _Text = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


class _Message(msgspec.Struct, frozen=True, rename="kebab"):
    body: str
    properties: _Properties
    headers: _Headers = _Headers()
    content_type: _Text = None
    content_encoding: _Text = None


class _KnownDelivery(_DeliveryInfo, frozen=True, forbid_unknown_fields=True):
    pass


class _KnownProperties(_Properties, frozen=True, forbid_unknown_fields=True, kw_only=True):
    delivery_info: _KnownDelivery
    delivery_mode: int | None = None
    expiration: _Text = None
    argsrepr: _Text = None
    kwargsrepr: _Text = None


class _KnownHeaders(_Headers, frozen=True, forbid_unknown_fields=True, kw_only=True):
    stamps: dict[_Untyped, str] | None = None


class _KnownMessage(_Message, frozen=True, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """What stock clients send: with nothing in it that is not looked at, and no place for a typed value of Celery."""

    properties: _KnownProperties
    headers: _KnownHeaders = _KnownHeaders()


class _OrdinaryProperties(_KnownProperties, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    body_encoding: Literal["base64"]


class _OrdinaryHeaders(_KnownHeaders, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    id: str
    task: str
    eta: None = None
    expires: None = None
    compression: None = None


class _OrdinaryMessage(_KnownMessage, frozen=True, rename="kebab", forbid_unknown_fields=True, kw_only=True, gc=False):
    """What stock clients send unless they are told otherwise, and at once. Of the others there are few."""

    body: bytes  # type: ignore[assignment]  # base64, which it is decoded from
    properties: _OrdinaryProperties
    headers: _OrdinaryHeaders
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]


class _Embed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


class _NothingFollows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


class _Protocol1(msgspec.Struct, frozen=True):
    """The body of a message of Celery 3 and older."""

    task: str
    id: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    eta: _Text = None
    expires: _Text = None
    retries: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


_to_json: Final = msgspec.json.Encoder().encode
_in_order: Final = msgspec.json.Encoder(order="deterministic").encode
_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_known: Final = msgspec.json.Decoder(_KnownMessage).decode
_decode_ordinary: Final = msgspec.json.Decoder(_OrdinaryMessage).decode
_decode_body: Final = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], _Embed | None]).decode
_decode_one_change: Final = msgspec.json.Decoder(tuple[_NoArguments, Change, _NothingFollows]).decode
_decode_protocol_1: Final = msgspec.json.Decoder(_Protocol1).decode


class Ordinary(msgspec.Struct, frozen=True, gc=False):
    """A message as nearly all are: of one change that is to be made now, whose values travel as they are."""

    task: str
    id: str
    queue: str
    change: Change


class Intake(msgspec.Struct, frozen=True):
    """A message that a worker can take: ``body`` is its JSON, ``[args, kwargs, embed]``; empty if of another task.

    ``canvas``: other tasks are to follow it. ``plain``, ``plain_body``: Celery's decoder of JSON can only find there
    what was found here. It is another one than ours, looks at fields that are none of ours, and makes typed values.
    """

    task: str
    id: str
    queue: str
    body: bytes | str = ""
    eta: datetime | None = None
    expires: datetime | None = None
    canvas: bool = False
    plain: bool = False
    plain_body: bool = False


class Refused(msgspec.Struct, frozen=True):
    """A message that Celery must not be given, and that is no event: it is a dead letter."""

    reason: str


class ForCelery(msgspec.Struct, frozen=True):
    """A message that only Celery can handle: it is of another ``task``, or due later, or others are to follow it."""

    task: str


def ordinary(raw: bytes, max_bytes: int) -> Ordinary | None:
    """The message in ``raw`` if it is an `Ordinary` one; ``None``: `read` has to say what it is.

    Every field is looked at as it is decoded, and nothing is decoded twice; Celery would find the same in it.
    """
    if len(raw) > max_bytes:
        return None
    try:
        message = _decode_ordinary(raw)
        body = message.body
        if len(body) > _SHORT or _may_be_typed(body):
            return None
        _, change, _ = _decode_one_change(body)
    except (ValueError, RecursionError):
        return None
    headers = message.headers
    return Ordinary(headers.task, headers.id, message.properties.delivery_info.routing_key, change)


def read(raw: bytes, task: str, max_bytes: int) -> Intake:
    """The message in ``raw``, the bytes in a queue; ``max_bytes`` is the limit of the messages of ``task``.

    The body of a message of another task is not looked at.

    Raises:
        InvalidEvent, ValueError, RecursionError: a worker must not be given this message.
    """
    limit = _GROWTH * max_bytes + _SLACK_BYTES
    if len(raw) > limit:
        raise InvalidEvent(f"a message of {len(raw)} bytes, far more than PIPELINE_MAX_EVENT_BYTES={max_bytes}")
    message, plain = _decoded(raw)
    headers, queue = message.headers, message.properties.delivery_info.routing_key
    if headers.task is not None:
        if headers.id is None:
            raise InvalidEvent("a message without an id")
        if headers.task != task:
            return Intake(headers.task, headers.id, queue, plain=plain)
    if message.content_type != "application/json":
        raise InvalidEvent(f"a message of content type {message.content_type!r:.200}, not application/json")
    if message.content_encoding is not None and message.content_encoding.lower() not in ENCODINGS:
        raise InvalidEvent(f"a message in the encoding {message.content_encoding!r:.200}, not utf-8")
    body = body_of(message.body, message.properties.body_encoding)
    if headers.compression:
        body = _inflated(body, headers.compression, limit)
    if headers.task is None or headers.id is None:
        return _protocol_1(body, queue)
    _, _, embed = _decode_body(body)
    return Intake(
        headers.task,
        headers.id,
        queue,
        body,
        eta=_moment("eta", headers.eta),
        expires=_moment("expires", headers.expires),
        canvas=embed is not None and any((embed.callbacks, embed.errbacks, embed.chain, embed.chord)),
        plain=plain,
        plain_body=not _may_be_typed(body if isinstance(body, bytes) else body.encode()),
    )


def _decoded(raw: bytes) -> tuple[_Message, bool]:
    """The message, and whether it is plain: see `Intake`."""
    try:
        return _decode_known(raw), True
    except ValueError:
        return _decode_message(raw), False


def _may_be_typed(text: bytes) -> bool:
    """Whether there may be a typed value of Celery in this JSON; a letter of its mark may be spelled as an escape."""
    return b"__type__" in text or (b"\\" in text and _ESCAPED_LETTER.search(text) is not None)


def fingerprint(raw: bytes) -> str | None:
    """What two deliveries of one message have in common; ``None`` if it has no id by which to tell."""
    try:
        message = msgspec.json.decode(raw)
        if not isinstance(message["headers"]["id"], str):
            return None
        message["properties"].pop("delivery_tag", None)
        return blake2b(_in_order(message), digest_size=16).hexdigest()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _protocol_1(body: bytes | str, queue: str) -> Intake:
    try:
        found = _decode_protocol_1(body)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"a message without the name of a task: {error}") from None
    return Intake(
        found.task,
        found.id,
        queue,
        body=_to_json([found.args, found.kwargs, {}]),
        eta=_moment("eta", found.eta),
        expires=_moment("expires", found.expires),
        canvas=any((found.callbacks, found.errbacks, found.chord)),
    )


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidEvent(f"an {name} that is no time: {text!r:.80}") from None
    if moment.year not in _YEARS:
        raise InvalidEvent(f"an {name} that no clock shows: {text!r:.80}")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_INFLATERS: Final[dict[str, Callable[[], Any]]] = {
    "application/x-gzip": zlib.decompressobj,  # kombu's name for zlib
    "gzip": zlib.decompressobj,
    "zlib": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "bzip2": bz2.BZ2Decompressor,
    "bzip": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
    "lzma": lzma.LZMADecompressor,
    "xz": lzma.LZMADecompressor,
}


def _inflated(body: bytes | str, compression: str, limit: int) -> bytes:
    """The body without its compression; a small message must not become one that fills the memory."""
    inflater = _INFLATERS.get(compression)
    if inflater is None:
        raise InvalidEvent(f"a body compressed with {compression!r:.80}, which is not known here")
    try:
        inflated: bytes = inflater().decompress(body if isinstance(body, bytes) else body.encode(), limit + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise InvalidEvent(f"a body that is not compressed with {compression}: {error}") from None
    if len(inflated) > limit:
        raise InvalidEvent(f"a compressed body of more than {limit} bytes")
    return inflated
