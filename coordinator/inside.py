"""The way into the admin service for what runs inside the daemon: the console, the webhook, the metrics.

Whoever asks for somebody is that somebody: what is asked goes through the guard that calls over the wire go through, and to the
same service. There is no second way to do anything, and none past the checks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has stubs but no py.typed

from coordinator.cell.routing import AdminService, Routes
from coordinator.core.listing import ROWS_MAX
from coordinator.identity.asked import ADMINISTRATION
from coordinator.services.guard import Guard
from coordinator.services.status import STATUS_METADATA_KEY, reason_named
from troth.errors import Reason, RequestError
from troth.v1 import admin_pb2

READS = frozenset({
    "ListTransactions", "Explain", "ListParticipants", "ListParticipantDetails", "GetStatus", "GetCell", "ListReviews",
})  # fmt: skip


class Asker(Protocol):
    """Somebody for whom is asked: what he shows, in the form of a call."""

    def auth_context(self) -> Any:
        """What his connection says."""

    def invocation_metadata(self) -> Any:
        """What he sends beside the request."""


class Itself:
    """The daemon's own questions."""

    def auth_context(self) -> dict[str, Any]:
        """There is no connection."""
        return {}

    def invocation_metadata(self) -> tuple[()]:
        """There is none."""
        return ()


class InsideCall:
    """In place of gRPC's context: nothing came over the wire."""

    def __init__(self, asker: Asker) -> None:
        self.auth_context = asker.auth_context
        self.invocation_metadata = asker.invocation_metadata

    def peer(self) -> str:
        """Where it comes from."""
        return "inside"

    async def abort(self, code: grpc.StatusCode, text: str = "", metadata: Any = ()) -> NoReturn:
        """It is refused: an error here, as it is over the wire."""
        reason = Reason.WRONG_NODE
        for key, value in metadata:
            if key == STATUS_METADATA_KEY:
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        reason = reason_named(info.reason)
        raise RequestError(reason, text.removeprefix(f"{reason.name}: ").removesuffix(f" ({reason.hint})"))


class Inside:
    """Asks the admin service."""

    def __init__(self, routes: Routes) -> None:
        self.common = routes.common
        self._guard = Guard(routes.common)
        self._service = AdminService(routes)

    async def ask(self, method: str, request: Any, asker: Asker) -> Any:
        """One call for somebody. Raises `RequestError` for what is refused."""
        behaviour = getattr(self._service, method)

        async def handler(_: Any) -> grpc.RpcMethodHandler[Any, Any]:
            return grpc.unary_unary_rpc_method_handler(behaviour, request_deserializer=type(request).FromString)

        guarded = await self._guard.intercept_service(handler, _Details(ADMINISTRATION + method))
        assert guarded is not None and guarded.unary_unary is not None
        return await guarded.unary_unary(request, InsideCall(asker))  # type: ignore[arg-type]  # it stands for gRPC's context

    async def look(self, method: str, request: Any) -> Any:
        """One question of the daemon's own; it changes nothing, and nobody is answered but itself."""
        assert method in READS, f"{method} is not for reading"
        return await getattr(self._service, method)(request, InsideCall(Itself()))


Ask = Callable[[admin_pb2.ListParticipantsRequest], Awaitable[Any]]


async def everybody(ask: Ask) -> AsyncIterator[admin_pb2.ParticipantSummary]:
    """All participants, page by page; `ask` asks for one."""
    request = admin_pb2.ListParticipantsRequest(limit=ROWS_MAX)
    while True:
        page = await ask(request)
        for row in page.participants:
            yield row
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


class _Details(grpc.HandlerCallDetails):
    """What gRPC tells an interceptor of a call."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()
