"""ASGI: FastAPI, Starlette, and whatever else speaks it.

    app = FastAPI(lifespan=lifespan)                                  # `async with bank: yield` starts the participant
    app.add_middleware(TransactionMiddleware, participant=bank)

A handler that is called in a transaction then has it: `async with bank.branch() as db` in an `async def`, `bank.branch_sync()` in a
plain `def`, which these frameworks run in a thread with the handler's context.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from participant_sdk.frameworks.calls import Headers, HttpCall, Refusal, refusal
from participant_sdk.metadata import CONTEXT_KEY
from troth.errors import RequestError

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_CONTEXT = CONTEXT_KEY.encode()


class TransactionMiddleware:
    """Gives handlers the transaction in which they are called, and acknowledges what they did in it.

    `participant`  whose service it is: a `TrothError` that a handler raises is answered with its reason, and in its name.

    The headers of an answer come before its body: what a body still does while it is sent is no part of the transaction. So the
    work of a call ends where its answer begins; there it votes, if it is its caller's last one.
    """

    def __init__(self, app: App, participant: Participant) -> None:
        self._app = app
        self._participant = participant

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One call."""
        context = [value for name, value in scope.get("headers", ()) if name.lower() == _CONTEXT]
        if scope["type"] != "http" or not context:
            await self._app(scope, receive, send)
            return
        try:
            call = HttpCall(context, self._participant.name, scope["method"], functools.partial(_header, scope))
        except RequestError as error:
            told = refusal(error, self._participant.name)
            assert told is not None
            await _send(told, send)
            return
        with call.inside():
            await _Answering(call, send).run(self._app, scope, receive)


class _Answering:
    """The answer of one call, as it passes."""

    def __init__(self, call: HttpCall, send: Send) -> None:
        self._call = call
        self._send = send
        self._began = False
        self._replaced = False
        """Whether another answer was sent than the application's."""

    async def run(self, app: App, scope: MutableMapping[str, Any], receive: Receive) -> None:
        try:
            await app(scope, receive, self._pass)
        except Exception as error:
            told = None if self._began else self._call.fails(error)
            if told is None:
                raise
            await _send(told, self._send)
        finally:
            self._call.over()

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._began:
            self._began = True
            headers = await self._call.answers(message["status"])
            if isinstance(headers, Refusal):
                self._replaced = True
                await _send(headers, self._send)
            else:
                message = {**message, "headers": [*message.get("headers", ()), *_encoded(headers)]}
        if not self._replaced:
            await self._send(message)


def _header(scope: MutableMapping[str, Any], wanted: str) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == wanted.encode()), None)


async def _send(told: Refusal, send: Send) -> None:
    await send({"type": "http.response.start", "status": told.status, "headers": _encoded(told.headers)})
    await send({"type": "http.response.body", "body": told.body})


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers]
