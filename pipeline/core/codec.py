"""Events ↔ messages in Celery's wire format (protocol 2 in kombu's Redis envelope).

A message that this module writes is what ``apply_event.delay(…)`` would have published, made without Celery and a third
smaller: only the headers that a stock worker needs, and a body that is plain JSON instead of base64. What it reads is
anything: `decode` never raises, a malformed message is a value (`Malformed`) that becomes a dead letter.

One header is ours: ``"pipeline": [seq, ms]``, the sequence number and the time at which Redis accepted the event in its
shard. The write script knows them and completes the message (see `OPEN_END`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec

from pipeline.core.change import Change, Event, check_event_id, unseal
from pipeline.errors import InvalidEvent

__all__ = [
    "ENCODINGS",
    "OPEN_END",
    "Envelope",
    "Malformed",
    "accepted_ms",
    "arguments",
    "bodies_json",
    "body_json",
    "body_of",
    "decode",
    "flush_message",
    "json_texts",
    "kwargs_json",
    "malformed_kwargs",
    "read_arguments",
    "refused_header",
]

OPEN_END: Final = b"}}"
"""What the write script puts after ``[seq,ms]`` to complete a message."""

_to_json: Final = msgspec.json.Encoder().encode
_to_lines: Final = msgspec.json.Encoder().encode_lines


class Envelope:
    """What the messages of one queue have in common. Immutable; make one per shard and keep it.

    ``parts`` are the four texts between which the id, the body, again the id, and what else the headers say stand, all
    as JSON. The write script puts a message together, so a chunk carries them once and not in every event.
    """

    __slots__ = ("_length", "parts")

    def __init__(self, task: str, queue: str) -> None:
        delivery_info = f'{{"exchange":"","routing_key":{_to_json(queue).decode()}}}'
        types = '"content-type":"application/json","content-encoding":"utf-8"'
        self.parts: Final = (
            f'{{{types},"properties":{{"delivery_info":{delivery_info},"delivery_tag":',
            '},"body":',
            f',"headers":{{"lang":"py","task":{_to_json(task).decode()},"id":',
            ',"pipeline":',
        )
        self._length = len("".join(self.parts).encode())

    def size(self, event: bytes, body: bytes) -> int:
        """Bytes of the message with this id and this body, open at its end."""
        return self._length + 2 * len(event) + len(body)

    def encode(self, event: bytes, kwargs: bytes, headers: str = "") -> bytes:
        """The message, open at its end, as the write script puts it together. All are JSON texts already."""
        head, to_body, to_headers, to_tail = self.parts
        name, body = event.decode(), body_json(kwargs).decode()
        return f"{head}{name}{to_body}{body}{to_headers}{name}{headers}{to_tail}".encode()


def body_json(kwargs: bytes) -> bytes:
    """The body of a message, for arguments that are JSON already: JSON in a JSON text."""
    return _to_json(f"[[],{kwargs.decode()},{{}}]")


def bodies_json(kwargs: Iterable[str]) -> list[str]:
    """The bodies of many messages, as `body_json` makes them."""
    return json_texts([f"[[],{one},{{}}]" for one in kwargs])


def json_texts(values: Iterable[object]) -> list[str]:
    """Each of ``values`` as JSON."""
    return _to_lines(values).decode().split("\n")[:-1]  # JSON has no line break of its own


def refused_header(why: str) -> str:
    """What the headers say of an event that the write side did not accept."""
    return f',"refused":{_to_json(why).decode()}'


def kwargs_json(changes: list[dict[str, Any]], shard_by: str | None = None) -> bytes:
    """The keyword arguments of ``apply_event`` for wire changes: one inline, several under ``changes``."""
    kwargs = changes[0] if len(changes) == 1 else {"changes": changes}
    return _to_json(kwargs if shard_by is None else {**kwargs, "shard_by": shard_by})


def malformed_kwargs(raw: bytes, reason: str) -> bytes:
    """The keyword arguments of a message that carries another one, which is none, to the flush that buries it."""
    return _to_json(_Carried(raw, reason))


def flush_message(task: str, queue: str, shard: int, placeholder: str) -> bytes:
    """A ready message for the task ``flush_shard``, in which ``placeholder`` stands for its unique id."""
    body = _to_json([[], {"shard": shard}, {}]).decode()
    return _to_json(
        {
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": {
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_tag": placeholder,
            },
            "headers": {"lang": "py", "task": task, "id": placeholder},
            "body": body,
        }
    )


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """A message that is no event: why, and the bytes as they were."""

    reason: str
    raw: bytes
    id: str | None = None
    seq: int | None = None
    accepted_ms: int | None = None


Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # as Lua counts; as milliseconds, a date that PostgreSQL has


class _Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    malformed: bytes
    reason: str


class _Headers(msgspec.Struct, frozen=True, gc=False):
    id: str
    task: str = ""
    pipeline: tuple[Number, Number] | None = None
    refused: str | None = None
    compression: str | None = None


class _Properties(msgspec.Struct, frozen=True, gc=False):
    delivery_tag: str  # not needed here, but Celery loses a message without one, and makes none
    body_encoding: str | None = None


class _Message(msgspec.Struct, frozen=True, rename="kebab", gc=False):
    body: str
    headers: _Headers
    properties: _Properties
    content_type: str | None = None
    content_encoding: str | None = None


class _Kwargs(Change, frozen=True, forbid_unknown_fields=True, gc=False):
    table: str = ""
    changes: list[Change] | None = None
    shard_by: str | None = None


_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_change: Final = msgspec.json.Decoder(tuple[list[Any], Change, Any]).decode
_decode_kwargs: Final = msgspec.json.Decoder(tuple[list[Any], _Kwargs, Any]).decode
_decode_body: Final = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], Any]).decode
_decode_carried: Final = msgspec.json.Decoder(tuple[list[Any], _Carried, Any]).decode

ENCODINGS: Final = frozenset({None, "", "utf-8", "utf8", "us-ascii", "ascii", "binary"})
"""Names of the encoding of a body that is JSON in UTF-8, as clients give it."""


def accepted_ms(raw: bytes) -> int | None:
    """When Redis accepted the message (Unix milliseconds), or ``None`` if it does not say."""
    try:
        headers = _decode_message(raw).headers
    except (ValueError, RecursionError):
        return None
    return headers.pipeline[1] if headers.pipeline else None


def accepted_seq(raw: bytes) -> int | None:
    """The number that the message got in its shard when Redis accepted it, or ``None`` if it does not say."""
    try:
        headers = _decode_message(raw).headers
    except (ValueError, RecursionError):
        return None
    return headers.pipeline[0] if headers.pipeline else None


def decode(raw: bytes, task: str) -> Event | Malformed:
    """The event in a message of the task named ``task``; every failure is a `Malformed`, never an exception."""
    headers: _Headers | None = None
    try:
        message = _decode_message(raw)
        headers = message.headers
        if headers.task != task:
            raise InvalidEvent(f"a message of the task {headers.task!r:.200}, not {task!r}")
        if message.content_type != "application/json":
            raise InvalidEvent(f"a message of content type {message.content_type!r:.200}, not application/json")
        if message.content_encoding not in ENCODINGS and str(message.content_encoding).lower() not in ENCODINGS:
            raise InvalidEvent(f"a message in the encoding {message.content_encoding!r:.200}, not utf-8")
        if headers.compression:
            raise InvalidEvent(f"a body compressed with {headers.compression!r:.200}; only the ingress queue takes one")
        return _event(headers, body_of(message.body, message.properties.body_encoding), raw)
    except RecursionError:
        return _malformed(headers, "nested too deeply", raw)
    except InvalidEvent as error:
        return _carried(raw) or _malformed(headers, str(error), raw)
    except ValueError as error:  # of msgspec, of base64, of UTF-8
        return _malformed(headers, f"not a Celery message: {error}", raw)


def arguments(event: Event) -> dict[str, Any]:
    """The arguments of ``apply_event`` as they stand in the event's message, typed values as tagged objects."""
    message = _decode_message(event.raw)
    return _decode_body(body_of(message.body, message.properties.body_encoding))[1]


def _malformed(headers: _Headers | None, reason: str, raw: bytes) -> Malformed:
    if headers is None:
        return Malformed(reason, raw)
    seq, accepted_ms = headers.pipeline or (None, None)
    return Malformed(reason, raw, headers.id, seq, accepted_ms)


def _carried(raw: bytes) -> Malformed | None:
    """The message that ``raw`` carries, if it was made with `malformed_kwargs`."""
    try:
        message = _decode_message(raw)
        _, carried, _ = _decode_carried(message.body)
    except (ValueError, RecursionError):
        return None
    seq, accepted_ms = message.headers.pipeline or (None, None)
    return Malformed(carried.reason, carried.malformed, _id_of(carried.malformed), seq, accepted_ms)


def _id_of(raw: bytes) -> str | None:
    try:
        return _decode_message(raw).headers.id
    except (ValueError, RecursionError):
        return None


def body_of(body: str, encoding: str | None) -> bytes | str:
    """The JSON text in the body of a message.

    Raises:
        InvalidEvent, ValueError: another encoding, or not encoded so.
    """
    if encoding == "base64":
        return base64.b64decode(body, validate=True)
    if encoding in {None, "", "utf-8"}:
        return body
    raise InvalidEvent(f"a body encoded as {encoding!r:.200}, not base64 or utf-8")


def _event(headers: _Headers, body: bytes | str, raw: bytes) -> Event:
    args, changes, shard_by = read_arguments(body)
    if args:
        raise InvalidEvent("apply_event takes keyword arguments only")
    unsealed: tuple[Change, ...]
    identities: tuple[str | None, ...]
    if len(changes) == 1:
        change, name = unseal(changes[0])
        unsealed, identities = (change,), (name,)
    else:
        unsealed, identities = zip(*map(unseal, changes), strict=True)
    seq, accepted_ms = headers.pipeline or (None, None)
    event = check_event_id(headers.id)
    return Event(event, unsealed, identities, raw, seq, accepted_ms, shard_by, headers.refused)


def read_arguments(body: bytes | str) -> tuple[list[Any], list[Change], str | None]:
    """Positional arguments, changes (their values still tagged) and ``shard_by`` in the body of a message.

    Raises:
        InvalidEvent: not the arguments of an event.
    """
    try:
        args, change, _ = _decode_change(body)  # nearly every message is one change and nothing else
    except msgspec.ValidationError:
        try:
            args, kwargs = _lenient(body)
        except msgspec.ValidationError as error:
            raise InvalidEvent(f"not the arguments of an event: {error}") from None
    else:
        return args, [change], None
    if kwargs.changes is None:
        fields = {name: getattr(kwargs, name) for name in Change.__struct_fields__}
        return args, [Change(**fields)], kwargs.shard_by
    if kwargs != _Kwargs(changes=kwargs.changes, shard_by=kwargs.shard_by):
        raise InvalidEvent("changes=[…] cannot be mixed with the arguments of a single change")
    if not kwargs.changes:
        raise InvalidEvent("changes=[] holds no change")
    return args, kwargs.changes, kwargs.shard_by


def _lenient(body: bytes | str) -> tuple[list[Any], _Kwargs]:
    """The arguments, where ``None`` is an argument that was not given: clients pass them on, as ``set=None``."""
    try:
        args, kwargs, _ = _decode_kwargs(body)
    except msgspec.ValidationError:
        args, given, _ = _decode_body(body)
        if isinstance(given.get("changes"), list):
            given["changes"] = [_given(change) for change in given["changes"]]
        return args, msgspec.convert(_given(given), _Kwargs)
    return args, kwargs


def _given(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    return {name: value for name, value in arguments.items() if value is not None}
