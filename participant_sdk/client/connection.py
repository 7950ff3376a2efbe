"""The way to the coordinator: dial, greet, move frames, and dial again with back-off, for as long as the client lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from participant_sdk.seat import Seat
from troth import forks
from troth.address import addresses_of
from troth.backoff import Backoff
from troth.channel import dialled
from troth.errors import Reason, RemoteProtocolError, RequestError
from troth.identity.tls import Tls
from troth.link import Link, Outbox, Packed, from_wire, to_wire
from troth.tasks import is_cancelling
from troth.v1 import client_pb2, common_pb2

METHOD = "/troth.v1.TransactionService/Connect"
GREETING_SECONDS = 10.0
"""How long the coordinator may take to answer ClientHello."""
REDIAL = Backoff(first_seconds=0.05, cap_seconds=2.0)
"""The wait between two attempts to connect; between two rounds, where there are several addresses."""
REFUSED_FOR_GOOD = frozenset({Reason.VERSION_MISMATCH})
"""Goodbyes after which no attempt follows. After any other the client comes back: it lives longer than most troubles."""


class Peer(Protocol):
    """What lives on the stream."""

    seat: Seat
    """To which shard of a cell, and where that is."""

    def hello(self) -> client_pb2.ClientHello:
        """How to introduce ourselves."""

    def welcomed(self, welcome: client_pb2.ClientWelcome) -> Outbox[client_pb2.ConnectRequest]:
        """The stream stands; returns the outbox to send from."""

    def sending(self, frame: Packed) -> None:
        """A frame is about to be written; what rides along may be added."""

    def received(self, frame: client_pb2.ConnectResponse) -> None:
        """A frame came in."""

    def lost(self, reason: Reason, message: str) -> None:
        """There is no stream any more, or still none. Another attempt follows."""

    def refused(self, error: RequestError) -> None:
        """The coordinator will not have us, now or later. No attempt follows."""


class Connection:
    """Holds at most one stream to the coordinator at `address`, and tells `peer` what becomes of it."""

    def __init__(self, address: str, peer: Peer, tls: Tls | None = None) -> None:
        self._address, self._tls = address, tls
        self._nodes = len(addresses_of(address))
        self._peer = peer
        self._generation = forks.generation()
        self._greeted = False
        self._farewell: common_pb2.Cause | None = None

    async def run(self) -> None:
        """Connect, and connect again, until cancelled or refused for good."""
        try:
            async with dialled(self._address, METHOD, to_wire, self._tls, lambda: self._peer.seat.address) as connect:
                await self._dial_for_ever(connect)
        except Exception as error:
            # A bug of ours: nobody must wait for a stream that will not come.
            self._peer.lost(Reason.INTERNAL, repr(error))
            self._peer.refused(RequestError(Reason.INTERNAL, f"the client's connection failed: {error!r}"))
            raise

    async def _dial_for_ever(self, connect: Any) -> None:
        attempt = 0
        while True:
            self._greeted = False
            self._farewell = None
            reason, message = await self._stream(connect)
            self._peer.lost(reason, message)
            if self._farewell is not None and reason in REFUSED_FOR_GOOD:
                self._peer.refused(RequestError(reason, message))
                return
            # Who is sent away each time it has been welcomed must not come back at once each time.
            attempt = 0 if self._greeted and self._farewell is None else attempt + 1
            await self._peer.seat.pause(REDIAL.delay_seconds(attempt // self._nodes, f"{self._address}/{id(self)}"))

    async def _stream(self, connect: Any) -> tuple[Reason, str]:
        """One stream from its first frame to its last; returns why it ended."""
        call = connect()
        why = "the stream ended"
        try:
            welcome = await self._greet(call)
            if welcome is not None:
                self._greeted = True
                outbox = self._peer.welcomed(welcome)
                with self._peer.seat.held(call.cancel):
                    await Link("client", outbox, self._writer(call), _frames(call), self._receive).run()
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        except (TimeoutError, asyncio.InvalidStateError, RemoteProtocolError) as error:
            why = str(error) or "no answer to ClientHello"
        except asyncio.CancelledError:
            # grpc.aio raises this also when the *other* side cancelled the call; then nobody has cancelled this task.
            if is_cancelling():
                raise
        finally:
            if forks.generation() == self._generation:
                call.cancel()  # in a forked child it is the parent's
        return self._why_ended(why)

    def _why_ended(self, why: str) -> tuple[Reason, str]:
        if self._farewell is None:
            return Reason.COORDINATOR_AWAY, f"{self._address}: {why}"
        cause = self._farewell
        return Reason.__members__.get(cause.reason, Reason.COORDINATOR_AWAY), cause.message or cause.reason

    async def _greet(self, call: Any) -> client_pb2.ClientWelcome | None:
        """Exchange the first frames; `None` when the coordinator said goodbye instead."""
        async with asyncio.timeout(GREETING_SECONDS):
            await call.write(client_pb2.ConnectRequest(hello=self._peer.hello()))
            frame = await _read(call)
        if frame is not None and frame.HasField("directory"):
            self._peer.seat.hear(frame.directory)
        if frame is not None and frame.HasField("goodbye"):
            self._farewell = frame.goodbye.cause
            return None
        if frame is None or not frame.HasField("welcome"):
            raise RemoteProtocolError("the first frame was not ClientWelcome")
        welcome: client_pb2.ClientWelcome = frame.welcome
        self._peer.seat.welcomed(welcome.coordinator, frame.directory)
        return welcome

    def _writer(self, call: Any) -> Any:
        async def write(frame: Packed) -> None:
            self._peer.sending(frame)
            await call.write(frame)

        return write

    def _receive(self, frame: Message) -> None:
        assert isinstance(frame, client_pb2.ConnectResponse)
        if frame.HasField("directory"):
            self._peer.seat.hear(frame.directory)
        self._peer.received(frame)
        if frame.HasField("goodbye"):
            self._farewell = frame.goodbye.cause


async def _frames(call: Any) -> AsyncIterator[Message]:
    while (frame := await _read(call)) is not None:
        yield frame


async def _read(call: Any) -> client_pb2.ConnectResponse | None:
    """The next frame; `None` at the end of the stream."""
    raw = await call.read()
    return None if raw is grpc.aio.EOF else from_wire(client_pb2.ConnectResponse, raw)
