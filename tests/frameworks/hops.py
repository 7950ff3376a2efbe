"""Services that call one another over HTTP: the request is a tree of what to do here, and whom to call then."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import flask
import httpx
import requests
from fastapi import Body, FastAPI, Response
from fastapi.responses import StreamingResponse

from participant_sdk import Participant, Refuse, current_scope
from participant_sdk.frameworks.asgi import TransactionMiddleware
from participant_sdk.frameworks.flask import install

Tree = Annotated[Any, Body()]


def fastapi_hop(bank: Participant) -> FastAPI:
    """On the participant's own loop."""
    app = FastAPI()
    app.add_middleware(TransactionMiddleware, participant=bank)

    @app.post("/do")
    async def do(response: Response, tree: Tree) -> dict[str, int]:
        for amount in tree.get("add", [1]):
            await bank.branch().run("add", amount=amount)
        async with bank.carry(httpx.AsyncClient()) as http:
            answers = await asyncio.gather(*(http.post(one["at"], json=one) for one in tree.get("onward", ())))
        for answer in answers:
            if not tree.get("catches"):
                answer.raise_for_status()
        if tree.get("refuses"):
            raise Refuse("UNWILLING")
        response.status_code = tree.get("status", 200)
        return {} if (scope := current_scope()) is None else scope.counts

    @app.post("/threads")
    def in_thread(tree: Tree) -> int:
        for amount in tree.get("add", [1]):
            bank.branch_sync().run("add", amount=amount)
        with bank.carry(httpx.Client()) as http:
            for one in tree.get("onward", ()):
                http.post(one["at"], json=one).raise_for_status()
        return 1

    _special(app, bank)
    return app


def _special(app: FastAPI, bank: Participant) -> None:
    """Handlers with answers that are hard to tell."""

    @app.post("/open")
    async def left_open() -> int:
        scope = current_scope()
        assert scope is not None
        scope.work.begins()  # as a dependency that yields inside of a block
        return 1

    @app.post("/many")
    async def many() -> int:
        scope = current_scope()
        assert scope is not None
        for number in range(200):
            scope.acknowledged(f"participant-{number}", 1, 1)
        return 1

    @app.post("/late")
    async def late() -> StreamingResponse:
        async def body() -> Any:
            yield "none" if current_scope() is None else "some"

        await bank.branch().run("add", amount=5)
        return StreamingResponse(body())

    @app.post("/bug")
    async def bug() -> None:
        await bank.branch().run("add", amount=5)
        raise LookupError("a bug")


def flask_hop(bank: Participant) -> flask.Flask:
    """In threads; the participant runs in the background."""
    app = flask.Flask("hop")
    install(app, bank)

    @app.post("/do")
    def do() -> Any:
        tree = flask.request.get_json()
        for amount in tree.get("add", [1]):
            bank.branch_sync().run("add", amount=amount)
        with bank.carry(requests.Session()) as http:
            for one in tree.get("onward", ()):
                http.post(one["at"], json=one, timeout=60).raise_for_status()
        if tree.get("refuses"):
            raise Refuse("UNWILLING")
        scope = current_scope()
        return {} if scope is None else scope.counts

    @app.post("/bug")
    def bug() -> None:
        bank.branch_sync().run("add", amount=5)
        raise LookupError("a bug")

    @app.post("/late")
    def late() -> Any:
        bank.branch_sync().run("add", amount=5)

        def body() -> Any:
            yield "none" if current_scope() is None else "some"

        return body()

    return app
