"""The coordinator, the participants and a client: what every stage with transactions needs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench.closed import CLIENT, OPERATOR, Closed
from bench.processes import Process, Together
from bench.service import method
from participant_sdk.client import Client
from troth.channel import credentials_of, open_channel
from troth.identity.tls import Tls
from troth.v1 import admin_pb2, admin_pb2_grpc

MESSAGES = ("prepares", "votes", "decisions", "acknowledgements")


def coordinator_process(directory: Path, *settings: str) -> Process:
    """`troth serve` with its defaults, on a free port."""
    extra = [part for setting in settings for part in ("--set", setting)]
    command = ["-m", "coordinator.cli", "serve", "--listen", "127.0.0.1:0", "--data-directory", str(directory), *extra]
    return Process("coordinator", directory, command)


def participant_process(
    directory: Path, coordinator: str, names: list[str], resource: str, store: str = "", tls: Tls | None = None, *,
    traced: bool = False,
) -> Process:  # fmt: skip
    """One process with the participants `names`; with a store each has a slot there, and nothing on the disk."""
    command = ["-m", "bench.participant", "--directory", str(directory), "--coordinator", coordinator, "--store", store]
    files = ["--tls", f"{tls.authorities},{tls.certificate},{tls.key}"] if tls is not None else []
    more = ["--traced"] if traced else []
    return Process(names[0], directory, [*command, "--names", ",".join(names), "--resource", resource, *files, *more])


class Cluster(Together):
    """Use it as an async context manager. `groups` has the participants' names, one list for each process."""

    def __init__(
        self,
        directory: Path,
        groups: list[list[str]],
        resource: str = "log",
        settings: tuple[str, ...] = (),
        before_participants: Callable[[float], None] = lambda seconds: None,
        access: Closed | None = None,
        traced: bool = False,
    ) -> None:
        self._groups = groups
        self._before_participants = before_participants
        self.ready_seconds: list[float] = []
        """How long each participant's process took from its start until it was connected."""
        self._resource = resource
        self._directory = directory
        super().__init__()
        self._access = access
        self._traced = traced
        closed = access.settings() if access is not None else ()
        self.coordinator = coordinator_process(directory / "coordinator", *settings, *closed)
        self.participants: list[Process] = []

    async def _start(self) -> None:
        self._stack.push_async_callback(self.coordinator.stop)
        began = time.perf_counter()
        await self.coordinator.start()
        self._before_participants(time.perf_counter() - began)
        address = self.coordinator.address
        for names in self._groups:
            tls = self._tls(names[0], *(f"spiffe://bench/{name}" for name in names))
            one = participant_process(self._directory / names[0], address, names, self._resource, tls=tls, traced=self._traced)
            self.participants.append(one)
            self._stack.push_async_callback(one.stop)
            await one.spawn()
        began = time.perf_counter()
        await asyncio.gather(*(self._ready(one, began) for one in self.participants))
        self.client = await self._stack.enter_async_context(Client(address, pending_max=20_000, tls=self._tls("client", CLIENT)))
        credentials = credentials_of(self._tls("operator", OPERATOR))
        channel = await self._stack.enter_async_context(open_channel(address, credentials))
        self._status = admin_pb2_grpc.AdminServiceStub(channel).GetStatus
        plain = [await self._channel(one, None) for one in self.participants]
        self._counters = [method(one, "Counters") for one in plain]
        self._releases = [method(one, "Release") for one in plain]
        self.plain_calls = [method(one, "Plain") for one in plain]
        within = [await self._channel(one, self.client) for one in self.participants]
        self.work_calls = [method(one, "Work") for one in within]

    def _tls(self, file: str, *names: str) -> Tls | None:
        return self._access.tls(file, *names) if self._access is not None else None

    async def _ready(self, one: Process, began: float) -> None:
        await one.ready()
        self.ready_seconds.append(time.perf_counter() - began)

    async def release(self) -> None:
        """Let all operations `wait` go on."""
        await asyncio.gather(*(one(b"") for one in self._releases))

    async def _channel(self, one: Process, client: Client | None) -> grpc.aio.Channel:
        interceptors: Any = client.interceptors() if client is not None else None
        return await self._stack.enter_async_context(grpc.aio.insecure_channel(one.address, interceptors=interceptors))

    @property
    def pids(self) -> dict[str, int]:
        """The processes of the cluster."""
        return {"coordinator": self.coordinator.pid, **{one.name: one.pid for one in self.participants}}

    async def status(self) -> dict[str, int]:
        """All counters of the coordinator."""
        answer = await self._status(admin_pb2.GetStatusRequest())
        return dict(answer.counters)

    async def counts(self) -> Mapping[str, int]:
        """Messages, forced records and syncs of everybody together."""
        coordinator = await self.status()
        total = Counter({name: coordinator[name] for name in ("forced_records", "syncs")})
        total["messages"] = sum(coordinator[name] for name in MESSAGES)
        for answer in await asyncio.gather(*(one(b"") for one in self._counters)):
            one = json.loads(answer)
            total["forced_records"] += one["forced_records"]
            total["syncs"] += one["syncs"]
        return total
