"""One session between a coordinator, three participants and two clients, with every frame of it recorded as bytes.

It runs on the software of whatever version is beside it, so it imports nothing of the tests. What a version that is landed says is
recorded once, and never edited: in a checkout of that version,

    .venv-test/bin/python ../new/tests/golden/golden_session.py ../new/tests/golden/NAME
    .venv-test/bin/buf build -o ../new/tests/golden/NAME/protos.binpb

Work: transactions of one shot that commit, under a key too, and that a participant refuses; one of several calls that commits, and
one that is rolled back. In the end a decision does not reach `stock`, and the files of everybody are copied as they are then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from coordinator.config import load
from coordinator.core.core import CoordinatorCore
from coordinator.directory import DataDirectory
from coordinator.server import Daemon
from participant_sdk import Aborted, Participant, Refuse, SqliteResource
from participant_sdk.client import Client, call
from troth.log.sqlite import SqliteLog
from troth.v1 import client_pb2, participant_pb2

NONCE = "0123456789abcdef"
"""Of the coordinator's first life: with it the ids of transactions are the same in every recording."""
METHOD = "/golden.Service/Add"
STREAMS = {
    "/troth.v1.ParticipantService/Session": (participant_pb2.SessionRequest, participant_pb2.SessionResponse),
    "/troth.v1.TransactionService/Connect": (client_pb2.ConnectRequest, client_pb2.ConnectResponse),
}
SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, amount INTEGER NOT NULL)"
WAIT_SECONDS = 20.0


@dataclass(frozen=True)
class Said:
    """One frame."""

    stream: int
    """Streams are numbered as they were opened."""
    method: str
    who: str
    """The participant; empty for a client."""
    up: bool
    """Whether the coordinator was told it."""
    frame: str
    """Its bytes, in hexadecimal."""


class Recorder(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types for it
    """Stands between the coordinator and its peers, and writes down what passes."""

    def __init__(self, target: str) -> None:
        self.said: list[Said] = []
        self.silences: set[str] = set()
        """Participants that hear nothing any more."""
        self._target = target
        self._streams = 0
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """From its start to its end."""
        await self._server.start()
        try:
            yield
        finally:
            await self._server.stop(None)

    def service(self, details: Any) -> Any:
        """The two streams."""
        if details.method not in STREAMS:
            return None

        async def carry(requests: Any, context: Any) -> None:
            await self._carry(details.method, requests, context)

        return grpc.stream_stream_rpc_method_handler(carry)

    async def _carry(self, method: str, requests: AsyncIterator[bytes], context: Any) -> None:
        self._streams += 1
        number, who = self._streams, ""
        async with grpc.aio.insecure_channel(self._target) as channel:
            there = channel.stream_stream(method)()

            async def upwards() -> None:
                nonlocal who
                async for frame in requests:
                    who = getattr(STREAMS[method][0].FromString(frame).hello, "participant", "") or who
                    self.said.append(Said(number, method, who, up=True, frame=frame.hex()))
                    await there.write(frame)
                await there.done_writing()

            going = asyncio.create_task(upwards())
            while (frame := await there.read()) is not grpc.aio.EOF:
                if who not in self.silences:
                    self.said.append(Said(number, method, who, up=False, frame=frame.hex()))
                    await context.write(frame)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)


def make_daemon(directory: Path, nonce: str = NONCE) -> Daemon:
    """The coordinator of the session."""
    flags = {"listen": "127.0.0.1:0", "data_directory": str(directory / "c1"), "history_seconds": 0.0, "drain_seconds": 0.0}
    config = load(environment={}, flags=flags).config
    core = CoordinatorCore(config.core, "c1", nonce, b"s" * 32)
    place = DataDirectory(directory / "c1")
    return Daemon(config, core, SqliteLog(place.log_file, role="coordinator", name="c1"), place, nonce)


def make_participant(name: str, directory: Path, coordinator: str) -> Participant:
    """One of its participants."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)

    @bank.operation(locks=[])
    def add(db: Any, *, amount: int) -> int:
        if amount < 0:
            raise Refuse("NO_FUNDS", "too little")
        db.execute("INSERT INTO entry (amount) VALUES (?)", (amount,))
        return amount

    return bank


async def one_shots(client: Client) -> None:
    """What the first client does."""
    await client.run(call("orders", "add", amount=1), call("stock", "add", amount=1), wait="complete")
    with contextlib.suppress(Aborted):
        await client.run(call("orders", "add", amount=2), call("stock", "add", amount=-1))
    await client.run(call("orders", "add", amount=3), call("stock", "add", amount=3), key="golden", wait="complete")


async def _several_calls(client: Client, addresses: list[str]) -> None:
    for refused in (False, True):
        with contextlib.suppress(Aborted, ZeroDivisionError):
            async with client.transaction():
                for address in addresses:
                    async with grpc.aio.insecure_channel(address, interceptors=client.interceptors()) as channel:
                        await channel.unary_unary(METHOD)(b"")
                if refused:
                    raise ZeroDivisionError


@contextlib.asynccontextmanager
async def _service(bank: Participant) -> AsyncIterator[str]:
    async def handle(_: bytes, context: Any) -> bytes:
        await bank.branch().run("add", amount=10)
        return b""

    server = grpc.aio.server(interceptors=bank.interceptors(), options=[("grpc.so_reuseport", 0)])
    handlers = {"Add": grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("golden.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def record(directory: Path, copies: Path) -> list[Said]:
    """Run the session in a directory; its files are copied while a decision has not arrived. Returns all frames."""
    daemon = make_daemon(directory)
    await daemon.start()
    recorder = Recorder(daemon.address)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(daemon.stop)
        await stack.enter_async_context(recorder.serving())
        banks = {}
        for name in ("orders", "payments", "stock"):
            banks[name] = await stack.enter_async_context(make_participant(name, directory, recorder.address))
            await asyncio.wait_for(banks[name].wait_connected(), WAIT_SECONDS)
        client = await stack.enter_async_context(Client(recorder.address))
        await one_shots(client)
        services = [await stack.enter_async_context(_service(banks[name])) for name in ("orders", "payments")]
        other = await stack.enter_async_context(Client(recorder.address))
        await _several_calls(other, services)
        await _heard(recorder, 0, "aborts", lambda one: one.up)
        await _heard(recorder, 0, "decisions", lambda one: one.who == "payments" and not one.up and _aborts(one))
        said = list(recorder.said)
        await _leave_in_doubt(client, recorder)
        _copy(directory, copies)
    return said


async def _leave_in_doubt(client: Client, recorder: Recorder) -> None:
    """Commit a transaction of whose decision `stock` does not hear."""
    began = len(recorder.said)
    running = asyncio.create_task(client.run(call("orders", "add", amount=100), call("stock", "add", amount=100)))
    await _heard(recorder, began, "prepares", lambda one: one.who == "stock")
    recorder.silences.add("stock")
    await running


async def _heard(recorder: Recorder, began: int, field: str, wanted: Callable[[Said], bool]) -> None:
    """Wait for a frame with this field, of those that passed later."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not any(wanted(one) and getattr(decoded(one), field, None) for one in recorder.said[began:]):  # noqa: ASYNC110 - frames of others
            await asyncio.sleep(0.001)


def _aborts(one: Said) -> bool:
    return any(each.kind == participant_pb2.DECISION_KIND_ABORT for each in decoded(one).decisions)


def decoded(one: Said) -> Any:
    """The frame as a message of this version."""
    return STREAMS[one.method][0 if one.up else 1].FromString(bytes.fromhex(one.frame))


def _copy(directory: Path, copies: Path) -> None:
    """Files as a crash would leave them."""
    left_out = shutil.ignore_patterns("*-shm", "*.lock", "lock", "address", "audit")
    shutil.copytree(directory, copies, ignore=left_out, dirs_exist_ok=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        frames = asyncio.run(record(Path(scratch), target / "logs"))
    (target / "frames.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in frames), encoding="utf-8")
