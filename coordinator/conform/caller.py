"""Calls of the participant's own API inside a transaction, as a client of it would make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio

from troth.errors import ConfigError
from troth.v1 import client_pb2, common_pb2

CONTEXT_KEY = "troth-context-bin"
ACKNOWLEDGED_KEY = "troth-acknowledged-bin"
CAUSE_KEY = "troth-cause-bin"
OPTIONS = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended."""

    response: bytes
    """What the method returned; empty when it failed."""
    acknowledged: tuple[client_pb2.AcknowledgedOperations, ...]
    """What came back in the trailing metadata."""
    failure: str = ""
    """The status and its text, of a call that failed."""
    cause: common_pb2.Cause | None = None
    """Why it failed, when that came back."""

    @property
    def count(self) -> int:
        """How many operations were acknowledged."""
        return sum(one.count for one in self.acknowledged)


@dataclass(slots=True)
class Caller:
    """Calls one unary method, which takes an Operation and runs it as a part of the transaction in the metadata."""

    target: str
    method: str
    _channel: Any = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `ADDRESS/SERVICE/METHOD`; the address is anything that gRPC dials. Raises `ConfigError`."""
        target, _, method = text.rpartition("/")
        target, _, service = target.rpartition("/")
        if not (target and service and method):
            raise ConfigError(f"{text!r} is no method", hint="Write ADDRESS/SERVICE/METHOD, as 127.0.0.1:7500/ledger.Ledger/Run.")
        return cls(target, f"/{service}/{method}")

    async def call(self, context: common_pb2.TransactionContext, operation: common_pb2.Operation, seconds: float) -> Answer:
        """Make one call."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.target, options=OPTIONS)
        metadata = ((CONTEXT_KEY, context.SerializeToString()),)
        method = self._channel.unary_unary(self.method, common_pb2.Operation.SerializeToString)
        call = method(operation, metadata=metadata, timeout=seconds, wait_for_ready=True)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            failure = f"{error.code().name}: {error.details()}"
            return Answer(b"", _acknowledged(error.trailing_metadata()), failure, _cause(error.trailing_metadata()))
        return Answer(response, _acknowledged(await call.trailing_metadata()))

    async def close(self) -> None:
        """End its connection."""
        if self._channel is not None:
            await self._channel.close()


def _acknowledged(trailers: Any) -> tuple[client_pb2.AcknowledgedOperations, ...]:
    told = (client_pb2.AcknowledgedOperations.FromString(value) for key, value in trailers or () if key == ACKNOWLEDGED_KEY)
    return tuple(one for one in told if one != client_pb2.AcknowledgedOperations())


def _cause(trailers: Any) -> common_pb2.Cause | None:
    return next((common_pb2.Cause.FromString(value) for key, value in trailers or () if key == CAUSE_KEY), None)
