"""Applications for servers of others, written as docs/how-to/run-in-a-server.md says: `asgi` for uvicorn, `celery` for a Celery
worker, to whom `python servers.py` gives its tasks."""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

from forking import ADDRESS, SECONDS, add, add_in_thread, told

from participant_sdk.client import Client, SyncClient

client = Client(ADDRESS)
TASKS = 8


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """One transaction for a request; the client is entered in the lifespan, so in each worker."""
    if scope["type"] == "lifespan":
        await receive()
        async with client:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = json.dumps({"pid": os.getpid(), "told": await add(client)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def make_celery(redis: str) -> Any:
    """A Celery application whose broker and results are a Redis server's. (Of a broker in files a worker reads half a message.)"""
    from celery import Celery

    app = Celery("servers", broker=redis, backend=redis)
    app.conf.update(broker_connection_retry_on_startup=True)
    troth = SyncClient(ADDRESS)

    @app.task(name="add")
    def one(number: int) -> Any:
        return [os.getpid(), told(functools.partial(add_in_thread, troth))]

    return app


celery = make_celery(os.environ["CELERY_REDIS"]) if "CELERY_REDIS" in os.environ else None

if __name__ == "__main__":
    assert celery is not None
    sent = [celery.tasks["add"].delay(number) for number in range(TASKS)]
    sys.stdout.write(json.dumps([one.get(timeout=SECONDS, interval=0.05) for one in sent]))
