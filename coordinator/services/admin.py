"""The admin service: what operators ask is answered by the core; only the daemon's own status is made here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from coordinator.core import events
from coordinator.services.context import Context
from coordinator.services.transactions import Ticket
from troth import __version__
from troth.errors import Reason, RequestError
from troth.ids import TransactionId, check_name
from troth.v1 import admin_pb2, admin_pb2_grpc

TEXT_CHARACTERS_MAX = 1_000
"""Of who and why: they go into the log."""
LIST_MAX = 10_000
"""Rows of one listing."""


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Inspects and steers one coordinator."""

    def __init__(
        self, context: Context, counters: Callable[[], dict[str, int]], drain_began: Callable[[], None]
    ) -> None:
        self._context = context
        self._counters = counters
        self._drain_began = drain_began
        self._started = time.monotonic()

    async def ask(self, request: Any) -> Any:
        """Put a request to the core and wait for the response that belongs to it."""
        ticket = Ticket()
        self._context.submit(events.Administer(ticket, request))
        return await ticket.future

    async def ListTransactions(self, request: admin_pb2.ListTransactionsRequest, context: Any) -> Any:
        """List transactions, oldest first."""
        if request.limit > LIST_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"limit is {request.limit}; it may be at most {LIST_MAX}")
        return await self.ask(request)

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Any) -> Any:
        """Tell why a transaction is where it is."""
        TransactionId.parse(request.transaction_id)
        return await self.ask(request)

    async def Resolve(self, request: admin_pb2.ResolveRequest, context: Any) -> Any:
        """Force an outcome."""
        TransactionId.parse(request.transaction_id)
        _check_reason(request.who, request.why)
        if request.action not in _ACTIONS:
            raise RequestError(Reason.INVALID_ARGUMENT, "action must be ABORT, COMMIT or ABANDON")
        if request.participant:
            check_name("participant", request.participant)
        return await self.ask(request)

    async def ForgetTransaction(self, request: admin_pb2.ForgetTransactionRequest, context: Any) -> Any:
        """Forget a heuristic outcome."""
        TransactionId.parse(request.transaction_id)
        _check_reason(request.who, request.why)
        return await self.ask(request)

    async def ListParticipants(self, request: admin_pb2.ListParticipantsRequest, context: Any) -> Any:
        """List every participant."""
        return await self.ask(request)

    async def ReplaceParticipant(self, request: admin_pb2.ReplaceParticipantRequest, context: Any) -> Any:
        """Let another log take over a participant's name."""
        check_name("participant", request.participant)
        _check_reason(request.who, request.why)
        return await self.ask(request)

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> Any:
        """Stop accepting new transactions."""
        response = await self.ask(request)
        self._drain_began()
        return response

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.GetStatusResponse:
        """Tell the daemon's identity, counters and limits."""
        shell = self._context
        return admin_pb2.GetStatusResponse(
            coordinator=shell.config.shell.name,
            epoch=shell.core.epoch,
            version=__version__,
            draining=shell.core.is_draining,
            counters=self._counters(),
            limits=shell.config.limits(),
            uptime_seconds=time.monotonic() - self._started,
        )


_ACTIONS = frozenset(
    {admin_pb2.RESOLVE_ACTION_ABORT, admin_pb2.RESOLVE_ACTION_COMMIT, admin_pb2.RESOLVE_ACTION_ABANDON}
)


def _check_reason(who: str, why: str) -> None:
    for name, text in (("who", who), ("why", why)):
        if not text.strip():
            raise RequestError(Reason.INVALID_ARGUMENT, f"{name} is empty: what is forced is recorded with who and why")
        if len(text) > TEXT_CHARACTERS_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"{name} is longer than {TEXT_CHARACTERS_MAX} characters")
