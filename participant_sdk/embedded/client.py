"""A production `Client` of a coordinator in the same process: everything of it but the wire."""

from __future__ import annotations

import asyncio
import time

from google.protobuf.message import Message

from participant_sdk.client.client import Client
from participant_sdk.client.connection import Peer
from participant_sdk.client.session import Session
from participant_sdk.client.transaction import Terms
from participant_sdk.embedded.coordinator import InProcessCoordinator
from participant_sdk.seat import Seat
from troth import features
from troth.errors import Reason, RequestError
from troth.link import Outbox, Packed
from troth.v1 import client_pb2

NOWHERE = "127.0.0.1:1"
"""An address that is never dialled."""


class InProcessClient(Client):
    """A client of a coordinator in the same process, which may end and begin again meanwhile."""

    def __init__(self, coordinator: InProcessCoordinator, *, grace_seconds: float, keyed: bool = True) -> None:
        super().__init__(NOWHERE, grace_seconds=grace_seconds)
        self._coordinator = coordinator
        self._keyed = keyed

    def check_terms(self, terms: Terms, session: Session) -> None:
        """See `Client`. A coordinator that has others beside it cannot know their keys."""
        if terms.key and not self._keyed:
            raise RequestError(
                Reason.INVALID_KEY, "each process of this service has a coordinator of its own, and none knows the others' keys",
                hint="Leave it out; or have one process (PostgresLog(dsn, slots_max=1)), or a daemon.",
            )
        super().check_terms(terms, session)

    def _session(self, seat: Seat) -> Session:
        return Session(
            self.address, pending_max=self._pending_max, seat=seat,
            connect=lambda address, peer: InProcessConnection(peer, self._coordinator),
        )  # fmt: skip


class InProcessConnection:
    """In place of `client.connection.Connection`: the way to a coordinator in the same process."""

    def __init__(self, peer: Peer, coordinator: InProcessCoordinator) -> None:
        self._peer = peer
        self._coordinator = coordinator
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        while True:
            await self._coordinator.up.wait()
            self._lost.clear()
            self._peer.hello()
            name = self._coordinator.open_session(self)
            try:
                await self._carry(name, self._peer.welcomed(self._welcome(name)))
            finally:
                self._coordinator.close_session(name)
            self._peer.lost(Reason.COORDINATOR_AWAY, "the coordinator of this process is down")

    def _welcome(self, name: str) -> client_pb2.ClientWelcome:
        return client_pb2.ClientWelcome(
            protocol_version=1,
            session=name,
            coordinator=self._coordinator.name,
            epoch=self._coordinator.epoch,
            limits=self._coordinator.limits,
            now_ms=time.time_ns() // 1_000_000,
            capabilities=[features.KEY_RESULTS],
        )

    async def _carry(self, name: str, outbox: Outbox[client_pb2.ConnectRequest]) -> None:
        """Move what is sent, until the coordinator is gone."""
        losing: asyncio.Future[object] = asyncio.ensure_future(self._lost.wait())
        waiting: asyncio.Future[object] = losing
        try:
            while not losing.done():
                waiting = asyncio.ensure_future(outbox.wait())
                await asyncio.wait((waiting, losing), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                while not losing.done() and (packed := outbox.drain()) is not None:
                    self._send(name, packed)
        finally:
            waiting.cancel()
            losing.cancel()

    def _send(self, name: str, packed: Packed) -> None:
        self._peer.sending(packed)
        self._coordinator.hear_client(name, client_pb2.ConnectRequest.FromString(packed.data))

    # ---- what the coordinator uses

    def deliver(self, field: str, message: Message) -> None:
        """An answer came."""
        response = client_pb2.ConnectResponse()
        getattr(response, field).append(message)
        self._peer.received(response)

    def got(self, asked: str, answer: client_pb2.Answer) -> None:
        """The answer to a question came."""
        self.deliver("got", client_pb2.GetResponse(answer=answer, transaction_id=asked))

    def lose(self) -> None:
        """The coordinator is gone."""
        self._lost.set()


