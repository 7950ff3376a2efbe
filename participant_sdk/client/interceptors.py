"""gRPC interceptors: they carry the transaction to services, and count what the services acknowledged.

Out: the metadata `troth-context-bin`, a serialised TransactionContext with a fresh call id.
Back: the trailing metadata `troth-acknowledged-bin`, a serialised AcknowledgedOperations, once for each participant that did
work in the call; and, when a call failed because of the transaction, `troth-cause-bin`, a serialised Cause.

A call that failed counts nothing. If its work was done all the same, the participant's number differs from the client's, and
the transaction aborts: there are no half branches (DESIGN section 4, rule 4).
"""

from __future__ import annotations

import functools
from collections.abc import Coroutine, Sequence
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
        if call.done():
            _count(tx, call)  # an interceptor inside of this one has answered it; such a call takes no callback
        else:
            call.add_done_callback(functools.partial(_count, tx))
        return call


class _UnaryUnary(_Carrier, grpc.aio.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.carry(continuation, client_call_details, request)


class _UnaryStream(_Carrier, grpc.aio.UnaryStreamClientInterceptor):
    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.carry(continuation, client_call_details, request)


class _StreamUnary(_Carrier, grpc.aio.StreamUnaryClientInterceptor):
    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.carry(continuation, client_call_details, request_iterator)


class _StreamStream(_Carrier, grpc.aio.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self.carry(continuation, client_call_details, request_iterator)


def _with_context(details: grpc.aio.ClientCallDetails, tx: Transaction) -> grpc.aio.ClientCallDetails:
    # Raises for a transaction that is over: a call that silently was not part of it would be worse.
    context = tx.context().SerializeToString()
    own = () if details.metadata is None else details.metadata
    metadata = grpc.aio.Metadata(*own, (CONTEXT_KEY, context))  # a service takes the last, should there be another context
    return grpc.aio.ClientCallDetails(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready)


def _count(tx: Transaction, call: Any) -> None:
    """Tell the transaction what a call says that has ended. Whoever waits for the call goes on after this."""
    key, kind, tell = (
        (ACKNOWLEDGED_KEY, client_pb2.AcknowledgedOperations, tx.count_call)
        if _known(call.code()) is grpc.StatusCode.OK
        else (CAUSE_KEY, common_pb2.Cause, tx.call_failed)
    )
    for name, value in _known(call.trailing_metadata()) or ():
        if name == key:
            tell(_parse(kind(), value))


def _known(answer: Coroutine[Any, Any, Any]) -> Any:
    """What gRPC knows of a call that has ended: it tells it in coroutines only, but they have nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("a call that has ended does not know how")


def _parse(message: Any, data: Any) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        message.Clear()  # counts nothing, and so the participant will say NO
    return message
