"""gRPC interceptors: they carry the transaction to services, and count what the services acknowledged.

Out: the metadata `troth-context-bin`, a serialised TransactionContext with a fresh call id.
Back: the trailing metadata `troth-acknowledged-bin`, a serialised AcknowledgedOperations, once for each participant that did
work in the call; and, when a call failed because of the transaction, `troth-cause-bin`, a serialised Cause.

A call that failed counts nothing. If its work was done all the same, the participant's number differs from the client's, and
the transaction aborts: there are no half branches (DESIGN section 4, rule 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from participant_sdk.client.transaction import Transaction, current_transaction
from participant_sdk.context import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY
from troth.v1 import client_pb2, common_pb2

if TYPE_CHECKING:
    from participant_sdk.client.client import Client


def client_interceptors(client: Client) -> Sequence[grpc.aio.ClientInterceptor]:
    """One interceptor for each kind of call; grpc.aio takes an object for one kind only."""
    return (_UnaryUnary(client), _UnaryStream(client), _StreamUnary(client), _StreamStream(client))


class _Carrier:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def carry(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        """Make the call, within the transaction around it if that is one of this client."""
        tx = current_transaction()
        if tx is None or tx.client is not self._client:
            return await continuation(details, request)
        call = await continuation(_with_context(details, tx), request)
        # The caller must get the call untouched, to write to it or to read from it; so a task of its own counts.
        tx.watch(call, asyncio.create_task(_count(call, tx), name="troth-count"))
        return call


class _UnaryUnary(_Carrier, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.carry(continuation, client_call_details, request)


class _UnaryStream(_Carrier, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self.carry(continuation, client_call_details, request)


class _StreamUnary(_Carrier, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self.carry(continuation, client_call_details, request_iterator)


class _StreamStream(_Carrier, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self.carry(continuation, client_call_details, request_iterator)


def _with_context(details: grpc.aio.ClientCallDetails, tx: Transaction) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    # Raises for a transaction that is over: a call that silently was not part of it would be worse.
    metadata[CONTEXT_KEY] = tx.context().SerializeToString()
    return grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


async def _count(call: Any, tx: Transaction) -> None:
    """Wait for the end of the call, and tell the transaction what it says."""
    code = await call.code()
    trailing = list(await call.trailing_metadata() or ())
    for key, value in trailing:
        if code is grpc.StatusCode.OK and key == ACKNOWLEDGED_KEY:
            tx.count_call(_parse(client_pb2.AcknowledgedOperations(), value))
        elif code is not grpc.StatusCode.OK and key == CAUSE_KEY:
            tx.call_failed(_parse(common_pb2.Cause(), value))


def _parse(message: Any, data: Any) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        message.Clear()  # counts nothing, and so the participant will say NO
    return message
