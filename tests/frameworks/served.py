"""One service for servers that are processes: `fastapi_app` and `django_asgi` for uvicorn, the others for gunicorn.

Each makes its application when the server calls it. A call with `dies: 1` ends its process where the answer begins and its headers
bring a vote: prepared, and nobody hears of it.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from web import bank_of, total

from participant_sdk.metadata import ACKNOWLEDGED_KEY, unpacked
from troth.v1 import client_pb2

bank = bank_of("p", Path(os.environ["DIRECTORY"]), os.environ["TROTH_COORDINATOR"])


def state() -> dict[str, int]:
    """What is committed, and what is in doubt."""
    return {"pid": os.getpid(), "total": bank.wait(total(bank)), "in_doubt": bank.health.in_doubt}


def ends_here(asked: bool, value: str | None) -> None:
    """End the process, if that was asked for and a vote goes out."""
    if asked and value and any(client_pb2.AcknowledgedOperations.FromString(one).HasField("vote") for one in unpacked(value)):
        os.kill(os.getpid(), signal.SIGKILL)


def _dying_asgi(app: Any) -> Any:
    async def dying(scope: Any, receive: Any, send: Any) -> None:
        asked = (b"dies", b"1") in scope.get("headers", ())

        async def passed(message: Any) -> None:
            told = {name.decode().lower(): value.decode() for name, value in message.get("headers", ())}
            ends_here(asked, told.get(ACKNOWLEDGED_KEY))
            await send(message)

        await app(scope, receive, passed)

    return dying


def _dying_wsgi(app: Any) -> Any:
    def dying(environ: Any, start_response: Any) -> Any:
        def begins(status: str, headers: Any, *error: Any) -> Any:
            told = {name.lower(): value for name, value in headers}
            ends_here(environ.get("HTTP_DIES") == "1", told.get(ACKNOWLEDGED_KEY))
            return start_response(status, headers, *error)

        return app(environ, begins)

    return dying


def fastapi_app() -> Any:
    """FastAPI, whose participant lives in the loop of the server."""
    import contextlib

    from fastapi import FastAPI

    from participant_sdk.frameworks.asgi import TransactionMiddleware

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with bank:
            await bank.wait_connected()
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(TransactionMiddleware, participant=bank)
    app.post("/do")(_do_in_loop)
    app.get("/state")(state)
    return _dying_asgi(app)


async def _do_in_loop() -> int:
    return int(await bank.branch().run("add", amount=1))


def flask_app() -> Any:
    """Flask, whose participant lives in the background."""
    import flask

    from participant_sdk.frameworks.flask import install

    app = flask.Flask("served")
    install(app, bank)
    app.post("/do")(lambda: str(bank.branch_sync().run("add", amount=1)))
    app.get("/state")(state)
    _start()
    return _dying_wsgi(app)


def _start() -> None:
    bank.start_in_background()
    bank.wait(bank.wait_connected())


# ---- Django


def _do(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(str(bank.branch_sync().run("add", amount=1)))


async def _do_beside(request: Any) -> Any:
    from asgiref.sync import sync_to_async

    return await sync_to_async(_do)(request)


def _state(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(json.dumps(state()))


def _configured(do: Any) -> None:
    import django
    from django.conf import settings
    from django.urls import path

    settings.configure(
        ROOT_URLCONF=(path("do", do), path("state", _state)), ALLOWED_HOSTS=["*"], SECRET_KEY="test",
        MIDDLEWARE=["participant_sdk.frameworks.django.TransactionMiddleware"], TROTH_PARTICIPANT=f"{__name__}.bank",
    )  # fmt: skip
    django.setup()


def django_wsgi() -> Any:
    """Django in threads."""
    from django.core.wsgi import get_wsgi_application

    _configured(_do)
    _start()
    return _dying_wsgi(get_wsgi_application())


def django_asgi() -> Any:
    """Django in a loop; the participant lives in the background, so in another one."""
    from django.core.asgi import get_asgi_application

    _configured(_do_beside)
    return _dying_asgi(get_asgi_application())
