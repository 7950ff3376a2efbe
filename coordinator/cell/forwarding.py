"""Passing a unary call on to the node that has the shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, NamedTuple

import grpc.aio

from coordinator.identity.gate import CALLER_METADATA, SHARD_METADATA
from coordinator.identity.who import CALLER
from coordinator.services.status import STATUS_METADATA_KEY
from coordinator.services.transactions import TRACE_METADATA
from troth import features
from troth.channel import credentials_of, open_channel
from troth.errors import ConfigError, Reason, RequestError
from troth.identity.tls import Tls
from troth.logs import get_logger
from troth.v1 import admin_pb2_grpc, client_pb2, client_pb2_grpc

CLOSE_SECONDS = 10.0
"""How long calls on a channel with old certificates may take to end."""

_log = get_logger("troth.cell")


class Node(NamedTuple):
    """The services of another node, by the names that a shard has for its own."""

    transactions: client_pb2_grpc.TransactionServiceStub
    admin: admin_pb2_grpc.AdminServiceStub
    channel: grpc.aio.Channel
    stamp: tuple[Any, ...]
    """Of the files of TLS that the channel was made with."""


class Forward:
    """Channels to the other nodes. `address_of` tells where a shard is, as far as this node knows; empty for nowhere. With `tls` a
    node shows the others the certificate that it shows everybody; when its files have changed, the next call makes another.
    `features_of` tells what the node at an address uses: an older one would take some calls for others."""

    def __init__(
        self, address_of: Callable[[str], str], tls: Tls | None = None,
        features_of: Callable[[str], Collection[str]] = lambda address: features.NAMES,
    ) -> None:  # fmt: skip
        self._address_of = address_of
        self._tls = tls
        self._features_of = features_of
        self._nodes: dict[str, Node] = {}
        """By address."""
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close all channels."""
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, *(node.channel.close() for node in self._nodes.values()), return_exceptions=True)

    async def unary(self, shard: str, service: str, method: str, request: Any, call: Any) -> Any:
        """One call at the shard's node. How it ends there is how it ends here, in status and details.

        Raises `RequestError` when nobody is known to have the shard (WRONG_NODE), or who has it would take the call for another one
        (VERSION_MISMATCH); then nothing has run.
        """
        passed = getattr(getattr(self._node(shard), service), method)
        request = self._understood(shard, request)
        try:
            return await passed(request, metadata=_metadata(shard, call), timeout=call.time_remaining())
        except grpc.aio.AioRpcError as error:
            await _abort(call, error)

    async def watch(self, shard: str, request: Any, call: Any) -> AsyncIterator[Any]:
        """The states of a transaction, as the shard's node tells them."""
        passed: Any = self._node(shard).transactions.Watch
        try:
            async for response in passed(request, metadata=_metadata(shard, call), timeout=call.time_remaining()):
                yield response
        except grpc.aio.AioRpcError as error:
            await _abort(call, error)

    def _node(self, shard: str) -> Node:
        address = self._address_of(shard)
        if not address:
            raise RequestError(Reason.WRONG_NODE, f"no node has the shard {shard} now")
        known, stamp = self._nodes.get(address), self._tls.stamp() if self._tls is not None else ()
        if known is None or known.stamp != stamp:
            known = self._nodes[address] = self._made(address, stamp, known)
        return known

    def _understood(self, shard: str, request: Any) -> Any:
        """The request as the shard's node will take it: without a result that may be left out. Raises `RequestError`."""
        if not features.needed(request):
            return request
        address = self._address_of(shard)
        lacking = features.lacking(request, self._features_of(address))
        if not lacking:
            return request
        if isinstance(request, client_pb2.CommitRequest) and request.result_optional:
            plain = client_pb2.CommitRequest()
            plain.CopyFrom(request)
            plain.ClearField("result")
            plain.ClearField("result_optional")
            return plain
        raise RequestError(
            Reason.VERSION_MISMATCH,
            f"the node at {address}, which has the shard {shard}, is of an earlier version, or holds this back: {lacking}",
            hint="Ask again once every node is upgraded, and uses it: `troth status` at each of them.",
        )

    def _made(self, address: str, stamp: tuple[Any, ...], known: Node | None) -> Node:
        """A channel with the files as they are now; with files that cannot be used the one that there is. Raises `ConfigError`."""
        try:
            channel = open_channel(address, credentials_of(self._tls))
        except ConfigError as error:
            if known is None:
                raise
            _log.warning("new files of TLS cannot be used; the last good ones stay", why=error.message, hint=error.hint)
            return known._replace(stamp=stamp)
        if known is not None:
            closing = asyncio.ensure_future(known.channel.close(CLOSE_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        stubs: Any = channel  # the stubs' types know the blocking channel only
        return Node(client_pb2_grpc.TransactionServiceStub(stubs), admin_pb2_grpc.AdminServiceStub(stubs), channel, stamp)


def _metadata(shard: str, call: Any) -> tuple[tuple[str, str | bytes], ...]:
    """Where a call is to be answered, in which trace, and whose it is: a node with a policy believes that of a node alone
    (`identity.gate`)."""
    caller = CALLER.get().name
    traced = ((key, value) for key, value in call.invocation_metadata() or () if key in TRACE_METADATA)
    passed_on: tuple[tuple[str, str | bytes], ...] = ((SHARD_METADATA, shard), *traced)
    return (*passed_on, (CALLER_METADATA, caller.encode())) if caller else passed_on


async def _abort(call: Any, error: grpc.aio.AioRpcError) -> None:
    details = [(key, value) for key, value in error.trailing_metadata() or () if key == STATUS_METADATA_KEY]
    await call.abort(error.code(), error.details(), tuple(details))
