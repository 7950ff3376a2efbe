"""Work that goes on behind the answer of its call, or is repeated beside it: refused, or told; never lost without a word."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest
from by_hand import carrying, told
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from services import Services
from web import on_threads, on_uvicorn

from participant_sdk import Participant, Refuse
from participant_sdk.branch import Branch
from participant_sdk.client import Aborted, RequestError
from participant_sdk.frameworks.asgi import TransactionMiddleware
from participant_sdk.frameworks.calls import HttpCall, Refusal
from participant_sdk.frameworks.wsgi import TransactionMiddleware as WsgiMiddleware
from participant_sdk.metadata import ACKNOWLEDGED_KEY, packed, said
from troth.errors import Reason, TrothError
from troth.v1 import client_pb2, common_pb2


class Late:
    """A service of which each handler keeps its branch, and works with it once more when its call has ended."""

    def __init__(self, bank: Participant) -> None:
        self.bank = bank
        self.ended: asyncio.Future[TrothError | None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        app = FastAPI()
        app.post("/background")(self.background)
        app.post("/body")(self.body)
        app.post("/dependency")(self.dependency(Depends(self._kept)))
        app.post("/task")(self.task)
        self.app = TransactionMiddleware(app, bank)

    async def again(self, branch: Branch) -> None:
        """Work, and remember how that went."""
        try:
            await branch.run("add", amount=10)
        except TrothError as error:
            self.ended.set_result(error)
        else:
            self.ended.set_result(None)

    async def background(self, later: BackgroundTasks, works: bool) -> None:
        later.add_task(self.again, await self._worked(works))

    async def body(self, works: bool) -> StreamingResponse:
        branch = await self._worked(works)

        async def body() -> Any:
            yield "begun"
            await self.again(branch)

        return StreamingResponse(body())

    async def _kept(self) -> Any:
        branch = self.bank.branch()
        yield branch
        await self.again(branch)

    def dependency(self, kept: Any) -> Callable[..., Awaitable[None]]:
        async def handler(works: bool, branch: Any = kept) -> None:
            if works:
                await branch.run("add", amount=1)

        return handler

    async def task(self, works: bool) -> None:
        branch = await self._worked(works)

        async def later() -> None:
            await asyncio.sleep(0.01)
            await self.again(branch)

        self._tasks.append(asyncio.create_task(later()))

    async def _worked(self, works: bool) -> Branch:
        branch = self.bank.branch()
        if works:
            await branch.run("add", amount=1)
        return branch


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("works", [False, True])
@pytest.mark.parametrize("path", ["background", "body", "dependency", "task"])
async def test_a_branch_that_was_kept_works_no_more(services: Services, path: str, works: bool, last: bool) -> None:
    """Nobody could be told of it any more: it would be done, say so, and be rolled back behind a commit."""
    late = Late(services.banks["a"])
    async with on_uvicorn(late.app) as url, services.client.transaction(one_call_each=last):
        await services.post({"at": f"{url}/{path}?works={works}"})
        await services.post(services.tree("c"))
        error = await asyncio.wait_for(late.ended, 60)
    assert error is not None and error.reason is Reason.NO_CONTEXT, error
    assert await services.totals() == (int(works), 0, 1)


async def test_no_work_begins_beside_the_vote(services: Services) -> None:
    """Of two participants in one process the second one's first work would come after the list of whom to name."""
    first, second = services.banks["a"], services.banks["c"]
    tasks: list[asyncio.Task[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await first.branch().run("add", amount=1)
        tasks.append(asyncio.create_task(second.branch().run("add", amount=10)))  # it begins when this task waits next
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async with on_uvicorn(TransactionMiddleware(app, first)) as url, services.client.transaction(one_call_each=True):
        await services.post({"at": url})
        await services.post(services.tree("b"))
    with pytest.raises(RequestError) as caught:
        await tasks[0]
    assert caught.value.reason is Reason.NO_CONTEXT
    assert await services.totals() == (1, 1, 0)


async def test_an_error_in_the_body_of_wsgi_is_that_of_the_call(services: Services) -> None:
    """An application that works in its body, and answers its errors by itself as WSGI has it."""
    bank = services.banks["b"]

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])

        def body() -> Any:
            try:
                bank.branch_sync().run("add", amount=10)
                yield b"done"
            except RequestError:
                start_response("500 Internal Server Error", [], sys.exc_info())
                yield b"an error"

        return body()

    async with on_threads(WsgiMiddleware(app, bank)) as url:
        with pytest.raises(httpx.HTTPStatusError):
            async with services.client.transaction(one_call_each=True):
                await services.post(services.tree("a"))
                await services.post({"at": url})
    assert await services.totals() == (0, 0, 0)


class Ended:
    """A blocking call of gRPC whose callbacks have not run yet."""

    def done(self) -> bool:
        return True

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def trailing_metadata(self) -> Any:
        return ((ACKNOWLEDGED_KEY, client_pb2.AcknowledgedOperations(participant="further", count=1).SerializeToString()),)


@pytest.mark.parametrize("status", [200, 409])
def test_blocking_calls_that_have_ended_are_not_under_way(status: int) -> None:
    """gRPC wakes whoever waits for a call before it runs its callbacks: the answer may begin in between."""
    context = common_pb2.TransactionContext(transaction_id="c1.1.00112233.1.7", call_id="1")
    call = HttpCall([packed([context.SerializeToString()])], "near", "POST", lambda name: None)
    with call.inside() as scope:
        carried = scope.carried()
        carried.context()
        scope.uncounted.add(Ended(), carried)
    answer = call.answers_in_thread(200) if status == 200 else call.fails(Refuse("UNWILLING"))
    assert answer is not None
    headers = dict(answer.headers if isinstance(answer, Refusal) else answer)
    (done,) = [client_pb2.AcknowledgedOperations.FromString(one) for name, one in said(headers) if name == ACKNOWLEDGED_KEY]
    assert (done.participant, done.count, done.unknown) == ("further", 1, False)


# ---- calls that come twice, and answers that others change


@pytest.mark.parametrize("last", [False, True])
async def test_a_call_that_comes_twice_at_once_is_done_once(services: Services, last: bool) -> None:
    """As a proxy does it that has lost patience: both run beside each other, and either answer commits."""
    async with services.client.transaction() as tx:
        for name in ("a", "b"):
            context = tx.context()
            context.last_call = last
            async with httpx.AsyncClient() as http:
                urls = [services.urls[name] + "/do"] * 3
                answers = await asyncio.gather(*(http.post(url, json={"add": [1, 2]}, headers=carrying(context)) for url in urls))
            assert {answer.status_code for answer in answers} == {200}
            done = [told(answer) for answer in answers]
            assert [(one.count, one.HasField("vote")) for one in done] == [(2, last)] * 3
            tx.acknowledge(done[0])
    assert await services.totals() == (3, 3, 0)


@pytest.mark.parametrize(("status", "dooms"), [(403, True), (500, True), (201, False)])
async def test_a_middleware_outside_that_changes_the_status_after_the_vote(services: Services, status: int, dooms: bool) -> None:
    """What it makes a failed call of has voted all the same; nobody counts it, so it is taken back."""
    bank = services.banks["a"]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await bank.branch().run("add", amount=1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    carries = TransactionMiddleware(inner, bank)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def changed(message: Any) -> None:
            await send({**message, "status": status} if message["type"] == "http.response.start" else message)

        await carries(scope, receive, changed)

    async with on_uvicorn(outer) as url, services.client.carry(httpx.AsyncClient()) as http:
        with pytest.raises(Aborted) if dooms else contextlib.nullcontext():
            async with services.client.transaction(one_call_each=True):
                assert (await http.post(url)).status_code == status
                assert bank.health.in_doubt == 1
                await services.post(services.tree("b"))
    assert await services.totals() == ((0, 0, 0) if dooms else (1, 1, 0))
    assert bank.health.in_doubt == 0


async def test_a_call_that_is_cancelled_while_it_votes_is_taken_back(services: Services) -> None:
    """As servers do it when whoever called is gone: the vote goes on, nobody hears of it, and its locks go with the transaction."""
    bank, voting = services.banks["a"], asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await bank.branch().run("add", amount=1)
        voting.set()  # whoever waits for it goes on when this task waits for its vote
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def cancelled(scope: Any, receive: Any, send: Any) -> None:
        answering = asyncio.ensure_future(TransactionMiddleware(app, bank)(scope, receive, send))
        await voting.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        raise ConnectionError("whoever called is gone")

    async with on_uvicorn(cancelled) as url:
        with pytest.raises(Aborted):
            async with services.client.transaction(one_call_each=True):
                with pytest.raises(httpx.HTTPError):
                    await services.post({"at": url})
                await services.post(services.tree("b"))
    assert await services.totals() == (0, 0, 0)
    assert bank.health.in_doubt == 0
