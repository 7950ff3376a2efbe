"""What a port offers, and which shard is asked.

A stream goes to the shard that its Hello names, or to any that is here; who names one that is not here is told where it is. A unary
call goes to the shard of its key or of its transaction, wherever that is: here, or through the node that has it. Lists are put
together from all shards. A call that was passed on once (`SHARD_METADATA` names the shard) is never passed on again.

With one shard, in a file, all of this comes to one look into a dictionary.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from coordinator.cell import merging
from coordinator.cell.forwarding import Forward
from coordinator.cell.questions import OwnCall, Questions
from coordinator.core import listing
from coordinator.history.entry import explained
from coordinator.history.history import History
from coordinator.identity.gate import SHARD_METADATA
from coordinator.identity.who import CALLER
from coordinator.services import status
from coordinator.services.context import Common
from coordinator.services.participants import check_hello
from coordinator.services.streams import COMES_BACK, check_protocol, first_frame, write_farewell
from troth.cell import coordinator_of, shard_of_key
from troth.errors import Reason, RemoteProtocolError, RequestError, TrothError
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, participant_pb2, participant_pb2_grpc

if TYPE_CHECKING:
    from coordinator.shard import Shard

DIRECTORY = "directory"
"""The capability of who holds a stream to each shard."""


class Routes:
    """The shards that this process serves, and the way to the others of the cell `name`."""

    def __init__(self, cell: str, names: Sequence[str], common: Common, forward: Forward | None = None) -> None:
        self.cell = cell
        self.names = tuple(names)
        self.common = common
        self._forward = forward
        self._here: dict[str, Shard] = {}
        if len(self.names) > 1:
            common.shard_of_key = self.of_key
            common.questions = Questions(self.of_question, self._ask_ourselves)
        self.drain: Callable[[], Awaitable[None]] | None = None
        """Gives all shards away; `None` where there is nobody to give them to."""
        self.cell_status: Callable[[], Awaitable[admin_pb2.GetCellResponse]] | None = None
        """What is known of the cell; `None` for a coordinator that is alone."""

    def add(self, shard: Shard) -> None:
        """A shard is served from now on."""
        self._here[shard.name] = shard

    def remove(self, shard: Shard) -> None:
        """A shard is served no more."""
        if self._here.get(shard.name) is shard:
            del self._here[shard.name]

    def __contains__(self, name: str) -> bool:
        return name in self._here

    @property
    def here(self) -> Sequence[Shard]:
        """What is served here."""
        return list(self._here.values())

    def of_key(self, key: str) -> str:
        """The shard of a key."""
        return self.names[shard_of_key(key, len(self.names))]

    def of_work(self, key: str, call: Any) -> str:
        """The shard for new work: that of its key; without a key any, and what was passed on stays where it was passed to."""
        return self.of_key(key) if key else self._directed(call) or self.any()

    def of_transaction(self, transaction_id: str, call: Any) -> str:
        """The shard that began a transaction; of what nobody here began, any: it says that it knows nothing of it."""
        name = coordinator_of(transaction_id)
        return name if name in self.names else self._directed(call) or self.any()

    def of_question(self, request: client_pb2.GetRequest) -> str:
        """The shard for a question: what is asked under a key is answered under the key. Empty for what nobody here began."""
        name = self.of_key(request.key) if request.key else coordinator_of(request.transaction_id)
        return name if name in self.names else ""

    async def _ask_ourselves(self, name: str, request: client_pb2.GetRequest) -> Any:
        return await self.ask(name, "transactions", "Get", request, OwnCall())

    def _directed(self, call: Any) -> str:
        """The shard that a call was passed on to; empty for a call that comes from outside."""
        if self._forward is None:
            return ""
        return next((str(value) for key, value in call.invocation_metadata() or () if key == SHARD_METADATA), "")

    def history(self, call: Any) -> History | None:
        """The history of the whole cell, for a call that comes from outside: whoever passed one on asks it too."""
        return None if self._directed(call) else self.common.history

    def any(self) -> str:
        """A shard that takes new work, here if there is one."""
        ready = [shard.name for shard in self._here.values() if shard.ready]
        return random.choice(ready or list(self._here) or self.names)

    def stream_to(self, name: str) -> Shard:
        """The shard for a stream; raises `RequestError` (WRONG_NODE) when it is not here."""
        shard = self._here.get(name or self.any())
        if shard is None:
            what = f"the shard {name!r} is not on this node" if name else "no shard is on this node yet"
            raise RequestError(Reason.WRONG_NODE, what)
        return shard

    async def settled(self, name: str) -> Shard:
        """The shard for a client's stream, once it lets clients in. Raises as `stream_to`."""
        shard = self.stream_to(name)
        await shard.context.begun.wait()
        return self.stream_to(shard.name)

    async def ask(self, name: str, service: str, method: str, request: Any, call: Any) -> Any:
        """A unary call of one shard, wherever it is."""
        shard = self._here.get(name)
        if shard is not None:
            answering = getattr(getattr(shard, service), method)(request, call)
            return await (answering if self._forward is None else _while_here(shard, answering, call))
        return await self._elsewhere(name, call).unary(name, service, method, request, call)

    def _elsewhere(self, name: str, call: Any) -> Forward:
        if self._forward is None or self._directed(call):
            raise RequestError(Reason.WRONG_NODE, f"the shard {name} is not on this node")
        return self._forward

    def watch(self, name: str, request: client_pb2.WatchRequest, call: Any) -> AsyncIterator[client_pb2.WatchResponse]:
        """The states of a transaction of a shard, wherever it is."""
        shard = self._here.get(name)
        if shard is not None:
            states = shard.transactions.Watch(request, call)
            return states if self._forward is None else _states_while_here(shard, states, call)
        return self._elsewhere(name, call).watch(name, request, call)

    async def all(self, method: str, request: Any, call: Any) -> list[Any]:
        """The answers of all shards of the cell, in their order. The first failure is raised when all have been asked."""
        directed = self._directed(call)
        names = (directed,) if directed else self.names
        answers = await asyncio.gather(
            *(self.ask(name, "admin", method, merging.copy_of(request), call) for name in names), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return list(answers)


async def _while_here(shard: Shard, answering: Coroutine[Any, Any, Any], call: Any) -> Any:
    """The answer of a shard that may leave this node meanwhile. What it was asked may then have happened, so the status is one
    without details, as after a lost connection: the same is true of both."""
    task, gone = asyncio.ensure_future(answering), asyncio.ensure_future(shard.gone.wait())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await call.abort(grpc.StatusCode.UNAVAILABLE, f"the shard {shard.name} has left this node; ask again")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _states_while_here(shard: Shard, states: AsyncIterator[Any], call: Any) -> AsyncIterator[Any]:
    try:
        while True:
            try:
                yield await _while_here(shard, anext(states), call)  # type: ignore[arg-type]  # a generator's is a coroutine
            except StopAsyncIteration:
                return
    finally:
        await states.aclose()  # type: ignore[attr-defined]  # it is a generator


class TransactionService(client_pb2_grpc.TransactionServiceServicer):
    """What callers use to run transactions."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # writes to the context
        """Carry one client's stream."""
        common = self._routes.common
        try:
            frame = await first_frame(request_iterator, common.shell)
            if not frame.HasField("hello"):
                raise RemoteProtocolError("the first frame carries no ClientHello")
            version = check_protocol(frame.hello.protocol)
            shard = await self._routes.settled(frame.hello.coordinator)
            await shard.sessions.serve(frame, version, request_iterator, context)
        except TrothError as error:
            common.counters.malformed_frames += isinstance(error, RemoteProtocolError)
            if isinstance(error, RequestError) and error.reason is not Reason.WRONG_NODE:  # who is sent elsewhere is not refused
                common.tell_refused(error.reason, error.by_caller)
            goodbye = client_pb2.ClientGoodbye(cause=status.cause_of(error))
            farewell = client_pb2.ConnectResponse(goodbye=goodbye, directory=common.directory)
            await write_farewell(context.write, farewell, common.shell)

    async def Run(self, request: client_pb2.RunRequest, context: Any) -> Any:
        """Run a one-shot transaction; OK means committed."""
        return await self._routes.ask(self._routes.of_work(request.key, context), "transactions", "Run", request, context)

    async def Begin(self, request: client_pb2.BeginRequest, context: Any) -> Any:
        """Begin an interactive transaction."""
        return await self._routes.ask(self._routes.of_work(request.key, context), "transactions", "Begin", request, context)

    async def Commit(self, request: client_pb2.CommitRequest, context: Any) -> Any:
        """Commit an interactive transaction; OK means committed."""
        return await self._of_transaction("Commit", request, context)

    async def Abort(self, request: client_pb2.AbortRequest, context: Any) -> Any:
        """Roll an interactive transaction back; OK means rolled back."""
        return await self._of_transaction("Abort", request, context)

    async def Get(self, request: client_pb2.GetRequest, context: Any) -> Any:
        """Tell what is known of a transaction, or of a key; OK whatever that is."""
        name = self._routes.of_question(request) or self._routes.of_transaction(request.transaction_id, context)
        return await self._routes.ask(name, "transactions", "Get", request, context)

    async def Watch(self, request: client_pb2.WatchRequest, context: Any) -> AsyncIterator[client_pb2.WatchResponse]:
        """Tell each state of a transaction until it is finished."""
        name = self._routes.of_transaction(request.transaction_id, context)
        async for response in self._routes.watch(name, request, context):
            yield response

    async def _of_transaction(self, method: str, request: Any, context: Any) -> Any:
        name = self._routes.of_transaction(request.transaction_id, context)
        return await self._routes.ask(name, "transactions", method, request, context)


class ParticipantService(participant_pb2_grpc.ParticipantServiceServicer):
    """What participants dial."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def Session(self, request_iterator: AsyncIterator[Any], context: Any) -> None:  # type: ignore[override]  # writes to the context
        """Carry one participant's session."""
        routes, common = self._routes, self._routes.common
        try:
            frame = await first_frame(request_iterator, common.shell)
            version = check_hello(frame)
            if len(routes.names) > 1:
                _check_knows_cells(frame.hello, len(routes.names))
            shard = routes.stream_to(frame.hello.coordinator)
            await shard.participants.serve(frame, version, request_iterator, context)
        except TrothError as error:
            common.counters.malformed_frames += isinstance(error, RemoteProtocolError)
            cause = status.cause_of(error)
            cause.retryable |= error.reason in COMES_BACK
            farewell = participant_pb2.SessionResponse(goodbye=participant_pb2.Goodbye(cause=cause), directory=common.directory)
            await write_farewell(context.write, farewell, common.shell)


def _check_knows_cells(hello: participant_pb2.Hello, shards: int) -> None:
    """Who would hold one stream of many is missed by most transactions, so it is told at once."""
    if not hello.coordinator and DIRECTORY not in hello.capabilities:
        text = f"this cell has {shards} shards, and a participant needs a stream to each of them: this one's software knows of none"
        raise RemoteProtocolError(text, reason=Reason.VERSION_MISMATCH)


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Inspects and steers a cell, from any of its nodes; draining and counters are the node's own."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def ListTransactions(self, request: admin_pb2.ListTransactionsRequest, context: Any) -> Any:
        """List transactions: what the shards know, and what the history remembers."""
        listing.check_transactions(request)
        known = merging.transactions(request, await self._routes.all("ListTransactions", request, context))
        history = self._routes.history(context)
        if history is None or not listing.is_of_what_is_over(request):
            return known
        return merging.with_history(request, known, await history.page(request))

    async def ListParticipants(self, request: admin_pb2.ListParticipantsRequest, context: Any) -> Any:
        """List participants by name."""
        listing.check_participants(request)
        return merging.participants(request, await self._routes.all("ListParticipants", request, context))

    async def ListParticipantDetails(self, request: admin_pb2.ListParticipantDetailsRequest, context: Any) -> Any:
        """List what a participant has many of."""
        listing.check_details(request)
        return merging.details(request, await self._routes.all("ListParticipantDetails", request, context))

    async def Explain(self, request: admin_pb2.ExplainRequest, context: Any) -> Any:
        """Tell why a transaction is where it is, or how it ended."""
        known = await self._of_transaction("Explain", request, context)
        history = self._routes.history(context)
        over = not known.HasField("summary") or known.summary.ended_ms
        return explained(known, await history.find(request.transaction_id)) if history is not None and over else known

    async def Resolve(self, request: admin_pb2.ResolveRequest, context: Any) -> Any:
        """Force an outcome."""
        return await self._of_transaction("Resolve", request, context)

    async def ForgetTransaction(self, request: admin_pb2.ForgetTransactionRequest, context: Any) -> Any:
        """Forget a heuristic outcome."""
        return await self._of_transaction("ForgetTransaction", request, context)

    async def _of_transaction(self, method: str, request: Any, context: Any) -> Any:
        name = self._routes.of_transaction(request.transaction_id, context)
        return await self._routes.ask(name, "admin", method, request, context)

    async def ReplaceParticipant(self, request: admin_pb2.ReplaceParticipantRequest, context: Any) -> Any:
        """Let another log take over a participant's name, at every shard that knows it."""
        return merging.orders(await self._routes.all("ReplaceParticipant", request, context))

    async def ForgetParticipant(self, request: admin_pb2.ForgetParticipantRequest, context: Any) -> Any:
        """Forget a participant, at every shard that knows it."""
        return merging.orders(await self._routes.all("ForgetParticipant", request, context))

    async def ListReviews(self, request: admin_pb2.ListReviewsRequest, context: Any) -> Any:
        """List orders that wait for a second person, at every shard."""
        answers = await self._routes.all("ListReviews", request, context)
        return admin_pb2.ListReviewsResponse(reviews=[one for answer in answers for one in answer.reviews])

    async def DecideReview(self, request: admin_pb2.DecideReviewRequest, context: Any) -> Any:
        """Do what waits, or drop it."""
        shard = request.review.rpartition("-")[0]
        name = shard if shard in self._routes.names else self._routes.any()
        return await self._routes.ask(name, "admin", "DecideReview", request, context)

    async def AcceptLoss(self, request: admin_pb2.AcceptLossRequest, context: Any) -> Any:
        """Go on without what logs have lost."""
        return merging.orders(await self._routes.all("AcceptLoss", request, context))

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> Any:
        """Stop accepting new transactions on this node."""
        answers = [await shard.admin.Drain(request, context) for shard in self._routes.here]
        if self._routes.drain is not None:
            await self._routes.drain()
        return merging.drains(answers)

    async def ReloadConfig(self, request: admin_pb2.ReloadConfigRequest, context: Any) -> Any:
        """Have this node read its settings again."""
        reloading = self._routes.common.reloading
        if reloading is None:
            raise RequestError(Reason.CONFIG, "this coordinator runs inside a program, which gave it its settings")
        return reloading.order(CALLER.get(), dry_run=request.dry_run)

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> Any:
        """Tell the node's identity, counters and limits."""
        return merging.statuses(self._routes.cell, self._routes.common, [
            await shard.admin.GetStatus(request, context) for shard in self._routes.here
        ])  # fmt: skip

    async def GetCell(self, request: admin_pb2.GetCellRequest, context: Any) -> Any:
        """Tell of the cell's nodes and shards."""
        if self._routes.cell_status is not None:
            return await self._routes.cell_status()
        (shard,) = self._routes.here
        return await shard.admin.GetCell(request, context)
