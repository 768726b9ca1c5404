"""Makes broken messages from whole ones: of bytes, of tokens, and of the JSON that they are and carry."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

__all__ = ["Mutants"]

_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+|\s+')
_BODY_TOKENS: Final = re.compile(rb'\\"(?:[^"\\]|\\\\.)*\\"|[\[\]{},:]|[^\s\[\]{},:"\\]+')

_TEXTS: Final = (
    "", "\x00", "\ud800", "😀", "ﷺ" * 30, "a" * 64, "a" * 5000, "'; DROP TABLE t; --", '"', '"Order"',
    "pg_catalog.pg_class",
    "pipeline.shard", "NaN", "Infinity", "-0", "1e400", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00",
    "2013-02-30", "24:00:00", "12:00:00+99:99", "1E+999999999", "1E-999999999", "sNaN", "\\N", "\\.", "\t\n\r\x08",
    "%s%(a)s{}",
    "/w==", "=", "00000000-0000-0000-0000-00000000000g", "\u202e", "\ufeff", "{}", "[]", "null",
)  # fmt: skip
_NUMBERS: Final = (0, -1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**50, 10**400, 1e308, 5e-324)
_TAGS: Final = ("datetime", "date", "time", "timedelta", "decimal", "uuid", "bytes", "base64", "other", 7, None)
_NAMES: Final = (
    "table", "key", "set", "add", "max", "min", "delete", "insert", "changes", "shard_by", "malformed", "reason", "id",
    "task", "pipeline", "refused", "body", "headers", "properties", "content-type", "content-encoding", "compression",
    "body_encoding", "delivery_tag", "delivery_info", "routing_key", "eta", "expires", "timelimit", "retries", "lang",
    "callbacks", "chord", "__type__", "__value__", "page_id", "title",
)  # fmt: skip
_SNIPPETS: Final = (
    b"null", b"NaN", b"-Infinity", b"1e999", b"{}", b"[]", b'""', b'"\\ud800"', b'"\\u0000"', b"\xff", b"\x00",
    b"9" * 5000,
    b",", b":", b"]", b"}", b"[", b"{", b'"', b"\\", b'\\"', b"true", b"//", b"\xef\xbb\xbf", b"{" * 3000, b"[" * 3000,
)  # fmt: skip


class Mutants:
    """An endless source of broken messages. The same ``seed`` gives the same ones."""

    def __init__(self, whole: Sequence[bytes], seed: int) -> None:
        """``whole`` are messages as they should be."""
        self._whole = list(whole)
        self._random = Random(seed)  # noqa: S311 - the same ones again, that is the point
        self._kinds: list[Callable[[bytes], bytes]] = [
            self._flip, self._overwrite, self._truncate, self._cut, self._repeat, self._insert, self._splice,
            self._swap_tokens, self._replace_token, self._swap_body_tokens,
            self._change_envelope, self._change_envelope, self._change_body, self._change_body, self._change_body,
            self._nest, self._encode_body,
        ]  # fmt: skip

    def next(self) -> bytes:
        """A message that has been broken one to three times."""
        raw = self._random.choice(self._whole)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            raw = self._random.choice(self._kinds)(raw)
        return raw

    # --- bytes

    def _place(self, raw: bytes) -> int:
        return self._random.randrange(len(raw) + 1)

    def _flip(self, raw: bytes) -> bytes:
        flipped = bytearray(raw)
        for _ in range(min(len(raw), self._random.choice((1, 1, 2, 8)))):
            flipped[self._random.randrange(len(raw))] ^= 1 << self._random.randrange(8)
        return bytes(flipped)

    def _overwrite(self, raw: bytes) -> bytes:
        at = self._place(raw)
        patch = self._random.randbytes(self._random.randint(1, 4))
        return raw[:at] + patch + raw[at + len(patch) :]

    def _truncate(self, raw: bytes) -> bytes:
        return raw[: self._place(raw)] if self._often(0.8) else raw[self._place(raw) :]

    def _cut(self, raw: bytes) -> bytes:
        at = self._place(raw)
        return raw[:at] + raw[at + self._random.choice((1, 1, 2, 10, 100)) :]

    def _repeat(self, raw: bytes) -> bytes:
        at = self._place(raw)
        return raw[:at] + raw[at : at + self._random.choice((1, 5, 50))] * self._random.choice((2, 3, 100)) + raw[at:]

    def _insert(self, raw: bytes) -> bytes:
        at = self._place(raw)
        return raw[:at] + self._random.choice(_SNIPPETS) + raw[at:]

    def _splice(self, raw: bytes) -> bytes:
        other = self._random.choice(self._whole)
        return raw[: self._place(raw)] + other[self._place(other) :]

    # --- tokens

    def _swap_tokens(self, raw: bytes) -> bytes:
        return self._swapped(raw, _TOKENS)

    def _swap_body_tokens(self, raw: bytes) -> bytes:
        return self._swapped(raw, _BODY_TOKENS)

    def _swapped(self, raw: bytes, tokens: re.Pattern[bytes]) -> bytes:
        found = list(tokens.finditer(raw))
        if len(found) < 2:  # noqa: PLR2004 - a swap needs two
            return raw
        first, second = sorted(self._random.sample(found, 2), key=re.Match[bytes].start)
        between = raw[first.end() : second.start()]
        return raw[: first.start()] + second.group() + between + first.group() + raw[second.end() :]

    def _replace_token(self, raw: bytes) -> bytes:
        found = list(self._random.choice((_TOKENS, _BODY_TOKENS)).finditer(raw))
        if not found:
            return raw
        token = self._random.choice(found)
        return raw[: token.start()] + self._random.choice(_SNIPPETS) + raw[token.end() :]

    # --- structure

    def _change_envelope(self, raw: bytes) -> bytes:
        return self._restructured(raw, in_body=False)

    def _change_body(self, raw: bytes) -> bytes:
        return self._restructured(raw, in_body=True)

    def _restructured(self, raw: bytes, *, in_body: bool) -> bytes:
        message = _parsed(raw)
        if not isinstance(message, dict):
            return raw
        target = _body(message) if in_body else message
        for _ in range(self._random.choice((1, 1, 2))):
            target = self._changed(target)
        if in_body:
            message["body"] = json.dumps(target, ensure_ascii=self._often(0.5))
            if isinstance(message.get("properties"), dict):
                message["properties"].pop("body_encoding", None)
            return _dumped(message)
        return _dumped(target)

    def _changed(self, value: Any) -> Any:
        """``value`` with something else somewhere in it."""
        if not isinstance(value, dict | list) or not value or self._often(0.15):
            return self._value()
        places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        place = self._random.choice(places)
        if self._often(0.6):
            value[place] = self._changed(value[place])
        elif self._often(0.4):
            del value[place]
        elif isinstance(value, dict):
            value[self._random.choice((*_NAMES, *_TEXTS))] = self._random.choice((value[place], self._value()))
        else:
            value.insert(place, self._random.choice((value[place], self._value())))
        return value

    def _value(self) -> Any:
        pick, scalar = self._random.choice, (*_TEXTS, *_NUMBERS)
        return pick(
            (
                lambda: pick(_TEXTS),
                lambda: pick(_NUMBERS),
                lambda: {"__type__": pick(_TAGS), "__value__": pick(scalar)},
                lambda: {"__type__": "uuid", "__value__": {"hex": pick(_TEXTS)}},
                lambda: {pick(_NAMES): pick(scalar)},
                lambda: [pick(scalar) for _ in range(self._random.randrange(4))],
                lambda: pick((None, True, False, {}, [], float("nan"), float("-inf"))),
            )
        )()

    def _often(self, share: float) -> bool:
        return self._random.random() < share

    def _nest(self, raw: bytes) -> bytes:
        """Wrap something in lists or objects, around the depths at which parsers give up."""
        depth = self._random.choice((2, 63, 64, 65, 200, 900, 1100, 5000))
        found = list(self._random.choice((_TOKENS, _BODY_TOKENS)).finditer(raw))
        if not found:
            return raw
        token = self._random.choice(found)
        opening, closing = self._random.choice(((b"[", b"]"), (b'{\\"a\\":', b"}"), (b'{"a":', b"}")))
        return raw[: token.start()] + opening * depth + token.group() + closing * depth + raw[token.end() :]

    def _encode_body(self, raw: bytes) -> bytes:
        """The body in base64, as stock clients send it."""
        message = _parsed(raw)
        if not isinstance(message, dict) or not isinstance(message.get("body"), str):
            return raw
        body = message["body"].encode("utf-8", "surrogatepass")
        if self._often(0.3):
            body = self._random.choice((self._flip, self._truncate, self._insert))(body)
        message["body"] = base64.b64encode(body).decode()
        message["properties"] = {**_object(message.get("properties")), "body_encoding": "base64"}
        return _dumped(message)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _body(message: dict[str, Any]) -> Any:
    body = message.get("body")
    try:
        if _object(message.get("properties")).get("body_encoding") == "base64":
            body = base64.b64decode(body or "")
        return json.loads(body or "")
    except (TypeError, ValueError, RecursionError):
        return body


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):  # an integer of thousands of digits, something nested beyond measure
        return b"{}"
