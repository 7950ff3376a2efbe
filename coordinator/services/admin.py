"""The admin service: what operators ask is answered by the core; only the daemon's own status is made here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from coordinator.core import effects, events, listing
from coordinator.identity.asked import ADMINISTRATION
from coordinator.identity.who import CALLER
from coordinator.services import fills, status
from coordinator.services.context import Context
from coordinator.services.participants import LOG_ID_CHARACTERS_MAX
from coordinator.services.reviews import Reviews, is_sealed, request_of
from coordinator.services.transactions import Ticket
from troth import __version__, features
from troth.errors import Reason, RequestError
from troth.identity.peer import NOBODY, named
from troth.ids import TransactionId, check_participant
from troth.logs import get_logger
from troth.v1 import admin_pb2

log = get_logger("troth.admin")

TEXT_CHARACTERS_MAX = 1_000
"""Of who and why: they go into the log."""


class Admin:
    """Inspects and steers one shard; the names and arguments are those of the gRPC service."""

    def __init__(
        self, context: Context, counters: Callable[[], dict[str, int]], drain_began: Callable[[], None]
    ) -> None:
        self._context = context
        self._counters = counters
        self._drain_began = drain_began
        self._started = time.monotonic()
        self._reviews = Reviews(context.config.shell, context.config.shell.name, context.core, self.ask)

    async def ask(self, request: Any) -> Any:
        """Put a request to the core and wait for the response that belongs to it."""
        ticket = Ticket()
        self._context.submit(events.Administer(ticket, request))
        return await ticket.future

    async def _force(self, what: str, request: Any) -> Any:
        """Put an operator's order to the core, and have both logs say who gave it and why, and what came of it."""
        caller = CALLER.get()
        if caller.name:
            request.who = caller.name  # who he is counts, and not what he says
        for name in features.needed(request):
            features.check_used(name, self._context.common.shell.features_held_back)
        if getattr(request, "dry_run", False):
            return await self.ask(request)
        if self._reviews.needed(request):
            return await self._let_wait(request)
        return await self._do(what, request)

    async def _do(self, what: str, request: Any, **approved: str) -> Any:
        """Do it, between an entry of the audit log that says so and one that says what came of it; `approved` is in both."""
        caller = CALLER.get()
        auditing, action, fields = self._context.common.auditing, type(request).__name__.removesuffix("Request"), _fields(request)
        before, audited = await self._state(request), auditing.asked(caller, action, {**_audited(fields), **approved})
        response = await self.ask(request)
        refusal = response.refusal.reason if "refusal" in response.DESCRIPTOR.fields_by_name else ""
        if refusal:
            log.warning("an operator's order was refused", **fields, reason=refusal)
        else:
            log.warning(what, **fields)
        auditing.done(caller, action, audited, before, await self._state(request), refusal, **approved)
        return response

    async def _let_wait(self, request: Any) -> Any:
        """Let an order wait for a second person, unless it would be refused anyway."""
        would = f"{type(request).__name__.removesuffix('Request')} is done."
        if "dry_run" in request.DESCRIPTOR.fields_by_name:
            request.dry_run = True
            tried = await self.ask(request)
            request.dry_run = False
            if tried.HasField("refusal"):
                return tried
            would = getattr(tried, "message", "") or would
        features.check_used(features.REVIEWS, self._context.common.shell.features_held_back)
        caller = CALLER.get()
        waiting = await self._reviews.put(request, caller, would)
        fields = _fields(request)
        self._context.common.auditing.asked(caller, "Review", {**_audited(fields), "review": waiting.review})
        text = f"it waits for a second person as {waiting.review}, for {self._context.config.shell.review_seconds:g} s"
        response = _RESPONSES[type(request)]()
        response.refusal.CopyFrom(status.cause(Reason.AWAITS_APPROVAL, text))
        return response

    async def ListReviews(self, request: admin_pb2.ListReviewsRequest, context: Any) -> admin_pb2.ListReviewsResponse:
        """List orders that wait for a second person."""
        response = admin_pb2.ListReviewsResponse()
        for one in self._reviews.all():
            sealed, order = is_sealed(one), one.kind.removesuffix("Request")
            told = _audited({} if sealed else _fields(request_of(one)))
            response.reviews.add(
                review=one.review, who=str(named(one.asker)), order=f"{order} {told['order']}".strip(),
                object=told["object"], why=told["why"], would=SEALED if sealed else one.would,
                expires_seconds=self._reviews.seconds_left(one),
            )  # fmt: skip
        return response

    async def DecideReview(self, request: admin_pb2.DecideReviewRequest, context: Any) -> admin_pb2.DecideReviewResponse:
        """Do what waits, or drop it."""
        caller = CALLER.get()
        _check_reason(caller.name or "nobody", request.why)
        one = self._reviews.find(request.review, caller, approve=request.approve)
        order, asker = request_of(one) if request.approve else None, named(one.asker)
        if order is not None:
            method = ADMINISTRATION + one.kind.removesuffix("Request")
            self._context.common.gate.call(asker, method, order)  # he may have lost that since
        fields = {"review": one.review, "asked_by": str(asker), "why": request.why}
        decision = "approved" if request.approve else "rejected"
        self._context.common.auditing.asked(caller, "Review", {**fields, "order": decision})
        await self._reviews.take(one.review)
        if order is None:
            return admin_pb2.DecideReviewResponse(message=f"{one.review} is rejected; nothing has happened.")
        order.who = f"{asker}, approved by {caller}"
        done = await self._do("done by an operator, and approved by another", order, review=one.review, asked_by=str(asker))
        if done.HasField("refusal"):
            return admin_pb2.DecideReviewResponse(refusal=done.refusal)
        return admin_pb2.DecideReviewResponse(message=getattr(done, "message", "") or f"{one.review} is approved and done.")

    def expired(self, effect: effects.Expired) -> None:
        """Nobody has decided an order in time."""
        one = effect.review
        log.warning("an order expired that waited for a second person", review=one.review, asked_by=one.asker)
        self._context.common.auditing.done(NOBODY, "Review", "", "waiting", "expired", "", review=one.review, asked_by=one.asker)

    async def _state(self, request: Any) -> str:
        """Where the transaction is that an order is about; empty where it is about none."""
        transaction_id = getattr(request, "transaction_id", "")
        if not transaction_id:
            return ""
        told = await self.ask(admin_pb2.ExplainRequest(transaction_id=transaction_id))
        return str(told.summary.state or "UNKNOWN")

    async def ListTransactions(self, request: admin_pb2.ListTransactionsRequest, context: Any) -> Any:
        """List transactions, oldest first."""
        listing.check_transactions(request)
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
            check_participant(request.participant)
        return await self._force("forced by an operator", request)

    async def ForgetTransaction(self, request: admin_pb2.ForgetTransactionRequest, context: Any) -> Any:
        """Forget a heuristic outcome."""
        TransactionId.parse(request.transaction_id)
        _check_reason(request.who, request.why)
        return await self._force("forgotten by an operator", request)

    async def ListParticipants(self, request: admin_pb2.ListParticipantsRequest, context: Any) -> Any:
        """List participants by name."""
        listing.check_participants(request)
        return await self.ask(request)

    async def ListParticipantDetails(self, request: admin_pb2.ListParticipantDetailsRequest, context: Any) -> Any:
        """List what a participant has many of."""
        listing.check_details(request)
        return await self.ask(request)

    async def ReplaceParticipant(self, request: admin_pb2.ReplaceParticipantRequest, context: Any) -> Any:
        """Let a named log take over a participant's name."""
        check_participant(request.participant)
        if len(request.log_id) > LOG_ID_CHARACTERS_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"log_id is longer than {LOG_ID_CHARACTERS_MAX} characters")
        _check_reason(request.who, request.why)
        return await self._force("replaced by an operator", request)

    async def ForgetParticipant(self, request: admin_pb2.ForgetParticipantRequest, context: Any) -> Any:
        """Forget a participant that nobody needs any more."""
        check_participant(request.participant)
        _check_reason(request.who, request.why)
        return await self._force("a participant was forgotten by an operator", request)

    async def AcceptLoss(self, request: admin_pb2.AcceptLossRequest, context: Any) -> Any:
        """Go on without what the log has lost."""
        _check_reason(request.who, request.why)
        return await self._force("loss accepted by an operator", request)

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> Any:
        """Stop accepting new transactions."""
        auditing, caller = self._context.common.auditing, CALLER.get()
        audited = auditing.asked(caller, "Drain", {})
        response = await self.ask(request)
        self._drain_began()
        auditing.done(caller, "Drain", audited, "", "draining", "")
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
            fills=fills.levels(shell),
            caller=CALLER.get().name,
            access=shell.common.access,
            features=shell.common.features(),
        )

    async def GetCell(self, request: admin_pb2.GetCellRequest, context: Any) -> admin_pb2.GetCellResponse:
        """Tell of the one shard of a coordinator that is alone."""
        name = self._context.config.shell.name
        shard = admin_pb2.ShardSummary(
            coordinator=name, node=name, epoch=self._context.core.epoch, leaving=self._context.core.is_draining,
            backlog=self._context.backlog(), undecided=self._context.core.undecided(),
        )  # fmt: skip
        return admin_pb2.GetCellResponse(cell=name, node=name, shards=[shard])


_RESPONSES = {
    admin_pb2.ResolveRequest: admin_pb2.ResolveResponse, admin_pb2.ReplaceParticipantRequest: admin_pb2.ReplaceParticipantResponse,
    admin_pb2.ForgetTransactionRequest: admin_pb2.ForgetTransactionResponse,
    admin_pb2.AcceptLossRequest: admin_pb2.AcceptLossResponse,
}  # fmt: skip
SEALED = "nobody knows what: its payload key is not there. It can be rejected, or approved when the key is back."
_ACTIONS = frozenset(
    {admin_pb2.RESOLVE_ACTION_ABORT, admin_pb2.RESOLVE_ACTION_COMMIT, admin_pb2.RESOLVE_ACTION_ABANDON}
)


def _fields(request: Any) -> dict[str, str]:
    """What an order says, for people."""
    fields = {field.name: str(value) for field, value in request.ListFields()}
    if "action" in fields:
        fields["action"] = admin_pb2.ResolveAction.Name(request.action).removeprefix("RESOLVE_ACTION_")
    return fields


def _audited(fields: dict[str, str]) -> dict[str, str]:
    """The same under the names of the audit log, where `who` is who he is."""
    object_name = " ".join(fields[name] for name in ("transaction_id", "participant", "log_id") if name in fields)
    return {"object": object_name, "order": fields.get("action", ""), "why": fields.get("why", "")}


def _check_reason(who: str, why: str) -> None:
    for name, text in (("who", who), ("why", why)):
        if not text.strip():
            raise RequestError(Reason.INVALID_ARGUMENT, f"{name} is empty: what is forced is recorded with who and why")
        if len(text) > TEXT_CHARACTERS_MAX:
            raise RequestError(Reason.INVALID_ARGUMENT, f"{name} is longer than {TEXT_CHARACTERS_MAX} characters")
