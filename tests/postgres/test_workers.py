"""`examples/workers` under uvicorn with several workers: each has a slot, one is killed, and the work goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

from pg_bench import Database
from pg_processes import Processes

from participant_sdk.client import Client, call
from tests.patience import SECONDS as PATIENCE_SECONDS
from tests.relational import until
from troth.errors import Aborted, OutcomeUnknown, RequestError
from troth.log.postgres_store import init

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "workers"


async def test_workers_share_a_database_and_survive_one_another(database: Database, processes: Processes) -> None:
    await init(database.dsn, "participant", (), branches=True)
    await database.sql("CREATE TABLE wallet (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0))")
    processes.coordinate()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        port = listening.getsockname()[1]
        processes.start(
            "uvicorn", "-m", "uvicorn", "--workers", "2", "--app-dir", str(EXAMPLE), "--fd", str(listening.fileno()),
            "--log-level", "warning", "app:app",
            environment={
                "DATABASE": database.dsn, "COORDINATOR": processes.address,
                "UVICORN_TIMEOUT_WORKER_HEALTHCHECK": "240",  # a worker that does not answer for 5 s was killed
            }, pass_fds=(listening.fileno(),),
        )  # fmt: skip

        def asked() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE_SECONDS) as response:
                return json.load(response)

        async def both() -> dict[str, int]:
            for _ in range(20):
                told = await asyncio.to_thread(asked)
                found[told["slot"]] = told["pid"]
            return found if len(found) >= 2 else {}

        found: dict[str, int] = {}
        slots = await until(both)
        async with Client(processes.address) as client:
            wallets: dict[str, int] = {}

            async def add(name: str) -> bool:
                try:
                    done = await client.run(call("wallets", "add", name=name, cents=100), timeout=3.0)
                except (Aborted, RequestError, OutcomeUnknown):
                    return False
                wallets[name] = done.results["wallets"][0]
                return True

            await until(lambda: add("ann"))
            os.kill(next(iter(slots.values())), signal.SIGKILL)
            await until(lambda: add("bob"))

            async def settled() -> bool:
                return await database.prepared() == []

            await until(settled)
            assert wallets.keys() == {"ann", "bob"}
