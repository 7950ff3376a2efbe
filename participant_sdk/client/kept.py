"""What a caller leaves under an idempotency key with his commit, and what whoever comes later finds there.

A value as operations take and return it, and with it what made it: so a decorated function gives back by itself only what the same
function returned, for the same arguments. The coordinator keeps bytes; with a payload codec it cannot read them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.message import DecodeError

from participant_sdk.client import checks
from participant_sdk.client.checks import Limits
from participant_sdk.codec import Coded
from troth.errors import Reason, RequestError
from troth.v1 import client_pb2, common_pb2
from troth.values import decode_value, encode_value


class Kept(NamedTuple):
    """What stands under a key."""

    value: Any
    made_by: bytes
    """See `maker`; empty where the caller said the value himself."""


class Leaving:
    """What a transaction leaves under its key, until it asks to commit."""

    def __init__(self, key: str, coded: Coded | None) -> None:
        self._key = key
        self._coded = coded
        self._wire: common_pb2.Value | None = None
        self._data = b""
        self._optional = False
        """Whether the commit goes on without it where there is no room."""
        self.value: Any = None
        """What was said."""

    def say(self, value: object, limits: Limits) -> None:
        """The caller says it. Raises `RequestError`, and what was said before stays."""
        if not self._key:
            raise RequestError(
                Reason.INVALID_ARGUMENT, "a result is kept under the transaction's key, and it has none",
                hint="Begin it with `key=`, or just return the value.",
            )  # fmt: skip
        self._leave(value, _wire_form(value), b"", limits)

    def returned(self, value: object, made_by: bytes, limits: Limits) -> None:
        """A function returned it: that is left, unless another one was said. Raises `RequestError` when it cannot be."""
        if self._wire is not None:
            self._leave(self.value, self._wire, made_by, limits)
        else:
            self._leave(value, _wire_form(value), made_by, limits)
            self._optional = True

    def _leave(self, value: object, wire: common_pb2.Value, made_by: bytes, limits: Limits) -> None:
        data = encoded(wire, made_by, self._key, self._coded)
        checks.kept_result(data, limits)
        self.value, self._wire, self._data = value, wire, data

    def ride(self, request: client_pb2.CommitRequest, limits: Limits) -> None:
        """Let the commit say it. Raises `RequestError` (FRAME_TOO_LARGE) where a frame has no room for both."""
        request.result, request.result_optional = self._data, self._optional
        if self._data and request.ByteSize() > limits.frame_bytes_max:
            if not self._optional:
                raise RequestError(Reason.FRAME_TOO_LARGE, "the commit with its result is larger than frame_bytes_max")
            request.ClearField("result")


def _wire_form(value: object) -> common_pb2.Value:
    return encode_value(value, "result", Reason.BAD_RESULT)


def encoded(value: common_pb2.Value, made_by: bytes, key: str, coded: Coded | None) -> bytes:
    """What the coordinator is to keep. Raises `RequestError` (PAYLOAD_UNREADABLE) when the codec cannot encode it."""
    data = client_pb2.KeptResult(value=value, made_by=made_by).SerializeToString()
    if coded is None:
        return data
    return client_pb2.KeptResult(encoded=coded.encoded_kept(key, data)).SerializeToString()


def decoded(data: bytes, key: str, coded: Coded | None) -> Kept:
    """What was kept. Raises `RequestError` (BAD_RESULT, PAYLOAD_UNREADABLE)."""
    kept = _parsed(data)
    if coded is not None:
        kept = _parsed(coded.decoded_kept(key, kept.encoded, data))
    elif kept.encoded:
        raise RequestError(Reason.PAYLOAD_UNREADABLE, "the result under the key is encoded, and this client has no payload codec")
    return Kept(decode_value(kept.value, "result", Reason.BAD_RESULT), kept.made_by)


def _parsed(data: bytes) -> client_pb2.KeptResult:
    try:
        return client_pb2.KeptResult.FromString(data)
    except DecodeError:
        raise RequestError(Reason.BAD_RESULT, "what is kept under the key is no KeptResult message") from None


def maker(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """What tells a call of a function from any other: a hash of its name and its arguments, by their names.

    Of arguments that have no wire form values of Python's own count as well (an Enum, a date, a set, a dataclass), and what stands
    in lists and dicts counts one by one. Any other object (a connection, `self`) is left out, since nothing about it is the same in
    another process. Of a `functools.partial` it is the function, and the arguments that it adds.
    Raises `TypeError` for arguments that the function does not take.
    """
    while isinstance(function, functools.partial):
        args, kwargs, function = (*function.args, *args), {**function.keywords, **kwargs}, function.func
    digest = sha256()
    for part in (getattr(function, "__module__", None) or "", getattr(function, "__qualname__", type(function).__qualname__)):
        _add(digest, part.encode())
    for name, value in _named(function, args, kwargs).items():
        told = _told(value)
        if told:
            _add(digest, name.encode())
            _add(digest, told)
    return digest.digest()


def _named(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).bind(*args, **kwargs).arguments
    except ValueError:
        return {"args": tuple(args), "kwargs": dict(kwargs)}  # written in C, and tells nothing
    except TypeError:
        # Another decorator may add arguments to those of the call: then its own names count.
        return inspect.signature(function, follow_wrapped=False).bind(*args, **kwargs).arguments


_WRITTEN = (int, float, str, bytes, Decimal, date, time, timedelta, UUID)
"""Values whose `repr` is the same in any process, and no other value has; those of the wire in a subclass, or too large."""


def _told(value: object, around: tuple[int, ...] = ()) -> bytes:
    """What tells an argument from any other; empty for an object about which nothing is known, and for what contains itself."""
    try:
        return encode_value(value).SerializeToString(deterministic=True) or _NONE
    except RequestError:
        pass
    if id(value) in around:
        return b""
    kind, parts = type(value).__qualname__, []
    around = (*around, id(value))
    if isinstance(value, Enum):
        parts = [value.name.encode()]
    elif isinstance(value, _WRITTEN):
        parts = [repr(value).encode()]
    elif isinstance(value, list | tuple):
        kind, parts = "list", [_told(item, around) for item in value]
    elif isinstance(value, set | frozenset):
        kind, parts = "set", sorted(_told(item, around) for item in value)
    elif isinstance(value, Mapping):
        kind, parts = "map", sorted(_joined(_told(name, around), _told(item, around)) for name, item in value.items())
    elif is_dataclass(value) and not isinstance(value, type):
        # Nothing is fetched: the object of an ORM would ask its database.
        held = getattr(value, "__dict__", None)
        names = [field.name for field in fields(value) if held is None or field.name in held]
        parts = [_joined(name.encode(), _told(getattr(value, name, None), around)) for name in names]
    else:
        return b""
    return _joined(b"other", kind.encode(), *parts)


_NONE = b"none"
"""Of what is `None`, whose wire form has no bytes: it is told from what is left out."""


def _joined(*parts: bytes) -> bytes:
    digest = sha256()
    for part in parts:
        _add(digest, part)
    return digest.digest()


def _add(digest: Any, part: bytes) -> None:
    # With its length: without it two different calls could be hashed as one text.
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)
