"""Payload that nobody reads but the client and the participant: a codec of the application's own, on both sides.

    client ── arguments, encoded ──> coordinator, which passes bytes on ──> participant
    client <── results, encoded ──── the same ──────────────────────────── participant

`docs/how-to/encrypt-payloads.md` has one that encrypts, ready to be taken. What the codec is told besides the bytes says what they
are: bound to it as associated data, arguments of one operation are none of another. Names of participants and operations,
idempotency keys and the codes of refusals are not payload, and stay in clear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from troth.errors import Reason, RequestError
from troth.ids import service_of
from troth.v1 import common_pb2
from troth.values import Encoded, decode_arguments, decode_value, encode_value, values_of


class PayloadCodec(ABC):
    """Encodes and decodes payload. Give the same to `Client(codec=...)` and `Participant(codec=...)`.

    It is called from several threads. Equal payload of equal `what` should be encoded equally (AES-SIV does so): the coordinator
    knows a retry under an idempotency key by its bytes, and work under keys is refused with a codec that is not so.
    """

    clear_allowed = False
    """Whether payload in clear is taken too, while some peers have no codec yet. Then whoever may pass it on may make it up."""

    @abstractmethod
    def encode(self, payload: bytes, what: str) -> bytes:
        """Payload for the way. `what` says what it is: `arguments of payments.debit`, `results of payments`,
        `result under the key order-1`."""

    @abstractmethod
    def decode(self, payload: bytes, what: str) -> bytes:
        """What was encoded as the same `what`. Raises anything for what was not: it is refused as PAYLOAD_UNREADABLE."""


class Coded:
    """A codec at work. Everything raises `RequestError` (PAYLOAD_UNREADABLE), which never holds payload."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self._is_steady: bool | None = None

    def encoded_arguments(self, participant: str, operation: str, data: bytes) -> bytes:
        """A serialised Arguments message in place of another one."""
        what = f"arguments of {service_of(participant)}.{operation}"
        return common_pb2.Arguments(encoded=self._tried("encode", data, what)).SerializeToString()

    def decoded_arguments(self, participant: str, operation: str, data: bytes) -> dict[str, Any]:
        """The keyword arguments in a serialised Arguments message. Also raises BAD_ARGUMENTS."""
        what = f"arguments of {service_of(participant)}.{operation}"
        try:
            encoded = common_pb2.Arguments.FromString(data).encoded
        except DecodeError:
            encoded = b""
        if not encoded and not self._codec.clear_allowed:
            raise RequestError(Reason.PAYLOAD_UNREADABLE, f"the {what} are in clear, and only encoded ones are taken")
        return decode_arguments(self._tried("decode", encoded, what) if encoded else data)

    def encoded_result(self, participant: str, value: object, operation: str) -> Encoded:
        """What stands in place of what an operation returned. Also raises BAD_RESULT."""
        data = encode_value(value, f"{operation}()", Reason.BAD_RESULT).SerializeToString()
        return Encoded(self._tried("encode", data, f"results of {service_of(participant)}"))

    def decoded_result(self, participant: str, value: common_pb2.Value, path: str = "value") -> Any:
        """What an operation returned. Also raises BAD_RESULT."""
        what = f"results of {service_of(participant)}"
        if value.WhichOneof("kind") == "encoded":
            try:
                value = common_pb2.Value.FromString(self._tried("decode", value.encoded, what))
            except DecodeError:
                raise RequestError(Reason.PAYLOAD_UNREADABLE, f"the codec made no value of the {what}") from None
        elif not self._codec.clear_allowed:
            raise RequestError(Reason.PAYLOAD_UNREADABLE, f"the {what} are in clear, and only encoded ones are taken")
        return decode_value(value, path, Reason.BAD_RESULT)

    def decoded_results(self, participant: str, data: bytes) -> list[Any]:
        """The values in a serialised Results message. Also raises BAD_RESULT."""
        return [self.decoded_result(participant, value, f"result[{at}]") for at, value in enumerate(values_of(data))]

    def encoded_kept(self, key: str, data: bytes) -> bytes:
        """A serialised KeptResult message, encoded: bound to its key, it is none of another."""
        return self._tried("encode", data, f"result under the key {key}")

    def decoded_kept(self, key: str, encoded: bytes, data: bytes) -> bytes:
        """The same in clear; `data` is what came in place of `encoded`, where that is empty."""
        what = f"result under the key {key}"
        if not encoded and not self._codec.clear_allowed:
            raise RequestError(Reason.PAYLOAD_UNREADABLE, f"the {what} is in clear, and only encoded ones are taken")
        return self._tried("decode", encoded, what) if encoded else data

    def check_steady(self) -> None:
        """Raise `RequestError` (INVALID_ARGUMENT) for a codec that encodes the same differently each time."""
        if self._is_steady is None:
            first, second = (self._tried("encode", b"troth", "arguments of troth.check") for _ in range(2))
            self._is_steady = first == second
        if not self._is_steady:
            raise RequestError(
                Reason.INVALID_ARGUMENT, "the payload codec encodes the same differently each time: no retry would be known as one",
                hint="Use an encryption that needs no random nonce, such as AES-SIV, or leave the idempotency key out.",
            )  # fmt: skip

    def _tried(self, verb: str, payload: bytes, what: str) -> bytes:
        """What the author's code makes of it. What it says when it raises may hold payload, and stays here."""
        call: Callable[[bytes, str], Any] = getattr(self._codec, verb)
        try:
            made = call(payload, what)
        except Exception as error:
            told = f"the codec cannot {verb} the {what}: it raised {type(error).__name__}"
            raise RequestError(Reason.PAYLOAD_UNREADABLE, told) from None
        if type(made) is not bytes or (verb == "encode" and not made):
            raise RequestError(Reason.PAYLOAD_UNREADABLE, f"the codec made no bytes of the {what}")
        return made
