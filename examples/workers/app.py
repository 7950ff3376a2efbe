"""A wallet service as a web application with several workers, on its own database and with nothing on local disk.

    export DATABASE=postgresql:///wallets COORDINATOR=127.0.0.1:7420
    troth store init --store "$DATABASE" --participant wallets
    psql "$DATABASE" -c "CREATE TABLE wallet (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0))"

    uvicorn --workers 4 --app-dir examples/workers app:app
    gunicorn --workers 4 --worker-class uvicorn_worker.UvicornWorker --chdir examples/workers app:app

Each worker starts its participant in the lifespan, after the fork, and gets a slot: `wallets/0`, `wallets/1` ... A worker that is
killed leaves its slot to the others, which finish what is in doubt there. Transactions name `wallets`:

    client.run(call("wallets", "add", name="ann", cents=-500), call("orders", "place", ...))
"""

from __future__ import annotations

import json
import os
from typing import Any

from participant_sdk import Participant, Postgres, PostgresLog

DATABASE = os.environ["DATABASE"]
COORDINATOR = os.environ.get("COORDINATOR", "127.0.0.1:7420")

# Made here, started in each worker: nothing is opened before the fork.
wallets = Participant("wallets", resource=Postgres(DATABASE), log=PostgresLog(DATABASE), coordinator=COORDINATOR)


@wallets.operation
async def add(db: Any, *, name: str, cents: int) -> int:
    """Put cents into a wallet, or take some out; returns what is in it."""
    cursor = await db.execute(
        "INSERT INTO wallet AS w VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET cents = w.cents + excluded.cents RETURNING cents",
        (name, cents),
    )
    return int((await cursor.fetchone())[0])


@wallets.operation
def balance(db: Any, *, name: str) -> int:
    """What is in a wallet."""
    row = db.execute("SELECT cents FROM wallet WHERE name = %s", (name,)).fetchone()
    return int(row[0]) if row else 0


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The web application: it says which slot answers. Its own pages would read and write the database as ever."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    health = wallets.health
    body = json.dumps({"slot": wallets.slot, "pid": os.getpid(), "ready": health.ready, "in_doubt": health.in_doubt}).encode()
    status = 200 if health.alive else 503
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    async with wallets:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
