"""Three services that call one another over HTTP, with what is counted of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from hops import fastapi_hop, flask_hop
from web import bank_at_work, bank_of, on_threads, on_uvicorn, total

from coordinator.server import Daemon
from participant_sdk import Participant
from participant_sdk.client import Client


def messages(daemon: Daemon) -> Counter[str]:
    """How often a daemon has asked for a vote, and was told one, on its streams."""
    counters = daemon.counters()
    return Counter({name: counters[name] for name in ("prepares", "votes")})


@dataclass
class Services:
    """`a` and `c` are FastAPI applications, `b` is one of Flask."""

    daemon: Daemon
    client: Client
    banks: dict[str, Participant]
    urls: dict[str, str]

    @property
    def coordinator(self) -> str:
        """The daemon's address."""
        return self.daemon.address

    def tree(self, name: str, *onward: Any, path: str = "/do", **fields: Any) -> Any:
        return {"at": self.urls[name] + path, "onward": onward, **fields}

    async def post(self, tree: Any) -> httpx.Response:
        async with self.client.carry(httpx.AsyncClient()) as http:
            return (await http.post(tree["at"], json=tree)).raise_for_status()

    async def totals(self) -> tuple[int, ...]:
        def of_b() -> int:
            return self.banks["b"].wait(total(self.banks["b"]))

        return await total(self.banks["a"]), await asyncio.to_thread(of_b), await total(self.banks["c"])

    def messages(self) -> Counter[str]:
        """As `messages` of the daemon."""
        return messages(self.daemon)


@contextlib.asynccontextmanager
async def services_at_work(daemon: Daemon, client: Client, directory: Path) -> AsyncIterator[Services]:
    """All of them, connected."""
    async with contextlib.AsyncExitStack() as stack:
        a = await stack.enter_async_context(bank_at_work("a", directory, daemon.address))
        c = await stack.enter_async_context(bank_at_work("c", directory, daemon.address))
        b = bank_of("b", directory, daemon.address)
        await asyncio.to_thread(b.start_in_background)
        stack.push_async_callback(asyncio.to_thread, b.close_in_background)
        await asyncio.to_thread(b.wait, b.wait_connected())
        urls = {
            "a": await stack.enter_async_context(on_uvicorn(fastapi_hop(a))),
            "b": await stack.enter_async_context(on_threads(flask_hop(b))),
            "c": await stack.enter_async_context(on_uvicorn(fastapi_hop(c))),
        }
        yield Services(daemon, client, {"a": a, "b": b, "c": c}, urls)
