"""One transaction through services that call one another by gRPC and by HTTP is one tree of spans, and says no payload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from spans_seen import Seen
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from coordinator.server import Daemon
from participant_sdk import Participant, Refuse, SqliteResource
from participant_sdk.client import Aborted, Client, SyncClient, call
from participant_sdk.frameworks.asgi import TransactionMiddleware
from tests.frameworks.web import on_uvicorn

SECRET = "a-secret-of-somebody"
SCHEMA = "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY NOT NULL, text TEXT NOT NULL)"
RUN, COMMIT = "troth.v1.TransactionService/Run", "troth.v1.TransactionService/Commit"


def bank_of(name: str, directory: Path, coordinator: str) -> Participant:
    """A participant that writes a text, or refuses one."""
    resource = SqliteResource(directory / f"{name}.db", schema=SCHEMA)
    bank = Participant(name, resource=resource, data_directory=directory / name, coordinator=coordinator)

    @bank.operation(locks=[])
    def note(db: Any, *, text: str, refuse: bool = False) -> str:
        if refuse:
            raise Refuse("NOT_NOW", text)
        db.execute("INSERT INTO entry (text) VALUES (?)", (text,))
        return text

    return bank


@contextlib.asynccontextmanager
async def grpc_service(bank: Participant, onward: str) -> AsyncIterator[str]:
    """A service of gRPC that does its part, and calls on over HTTP."""

    async def do(request: bytes, _: Any) -> bytes:
        await bank.branch().run("note", text=request.decode())
        async with bank.carry(httpx.AsyncClient()) as http:
            (await http.post(f"{onward}/notes?text={SECRET}", json={"text": request.decode()})).raise_for_status()
        return b""

    server = grpc.aio.server(interceptors=bank.interceptors(), options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    handlers = {"Do": grpc.unary_unary_rpc_method_handler(do)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("notes.Notes", handlers),))
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def http_service(bank: Participant) -> Any:
    """A service of HTTP, without a framework that traces by itself."""

    async def notes(request: Request) -> Response:
        text = (await request.json())["text"]
        await bank.branch().run("note", text=text, refuse=text.endswith("!"))
        return Response()

    inside = Middleware(TransactionMiddleware, participant=bank)
    return Starlette(routes=[Route("/notes", notes, methods=["POST"])], middleware=[inside])


@contextlib.asynccontextmanager
async def two_services(daemon: Daemon, directory: Path) -> AsyncIterator[tuple[Client, str]]:
    """A client, and the address of the first service."""
    left, right = bank_of("left", directory, daemon.address), bank_of("right", directory, daemon.address)
    async with left, right, Client(daemon.address) as client:
        await asyncio.gather(left.wait_connected(), right.wait_connected())
        async with on_uvicorn(http_service(right)) as url, grpc_service(left, url) as address:
            yield client, address


async def post(client: Client, address: str, text: str) -> None:
    async with grpc.aio.insecure_channel(address, interceptors=client.interceptors()) as channel:
        await channel.unary_unary("/notes.Notes/Do")(text.encode())


async def test_a_transaction_over_grpc_and_http_is_one_tree(seen: Seen, daemon: Daemon, tmp_path: Path) -> None:
    async with two_services(daemon, tmp_path) as (client, address), client.transaction(wait="complete") as tx:
        await post(client, address, SECRET)
    await seen.until("troth.coordinate")
    coordinate = {"troth.work": {}, "troth.vote": {}, "troth.vote+": {}, "troth.decide": {}, "troth.commit": {}}
    service = {"troth.operation": {}, "POST": {"POST": {"troth.operation": {}}}}
    tree = seen.tree()["troth.transaction"]
    assert tree.pop("troth.coordinate") == coordinate
    assert tree == {
        "notes.Notes/Do": {"notes.Notes/Do": service}, COMMIT: {}, "troth.prepare": {}, "troth.prepare+": {}, "troth.finish": {},
        "troth.finish+": {},
    }  # fmt: skip
    assert {span.context.trace_id for span in seen.spans} == {seen.one("troth.transaction").context.trace_id}
    ours = [dict(span.attributes or {}) for name in (*tree, *coordinate) for span in seen.named(name) if name.startswith("troth.")]
    assert {about["troth.transaction.id"] for about in ours if "rpc.method" not in about} == {tx.transaction_id}
    assert {one.attributes["troth.participant"] for one in seen.named("troth.finish") if one.attributes} == {"left", "right"}


async def test_calls_are_named_as_the_conventions_have_it(seen: Seen, daemon: Daemon, tmp_path: Path) -> None:
    async with two_services(daemon, tmp_path) as (client, address), client.transaction():
        await post(client, address, "a")
    kinds = {span.kind: dict(span.attributes or {}) for span in seen.named("notes.Notes/Do")}
    of_grpc = {"rpc.system.name": "grpc", "rpc.method": "notes.Notes/Do", "rpc.response.status_code": "OK"}
    assert kinds == {SpanKind.CLIENT: of_grpc, SpanKind.SERVER: of_grpc}
    of_http = {span.kind: dict(span.attributes or {}) for span in seen.named("POST")}
    status = {"http.request.method": "POST", "http.response.status_code": 200}
    assert of_http[SpanKind.SERVER] == status
    assert of_http[SpanKind.CLIENT].items() >= status.items() and of_http[SpanKind.CLIENT]["server.address"] == "127.0.0.1"
    host, port = daemon.address.split(":")
    asked = dict(seen.one(COMMIT).attributes or {})
    assert asked == {**of_grpc, "rpc.method": COMMIT, "server.address": host, "server.port": int(port)}


async def test_a_refusal_is_told_by_its_reason_and_code_and_nothing_is_told_of_payloads(
    seen: Seen, daemon: Daemon, tmp_path: Path
) -> None:
    async with two_services(daemon, tmp_path) as (client, address):
        with pytest.raises(Aborted):
            async with client.transaction(key=SECRET):
                await post(client, address, f"{SECRET}!")
        with pytest.raises(Aborted):
            await client.run(call("left", "note", text=SECRET), call("right", "note", text=SECRET, refuse=True), key=f"{SECRET}-2")
    await seen.until("troth.coordinate", 2)
    refused = [span for span in seen.named("troth.operation") if span.status.status_code is StatusCode.ERROR]
    assert [dict(span.attributes or {})["troth.code"] for span in refused] == ["NOT_NOW", "NOT_NOW"]
    assert {span.status.status_code for span in seen.named("troth.transaction")} == {StatusCode.ERROR}
    assert seen.named("troth.prepare", troth_vote_kind="NO", troth_code="NOT_NOW")
    assert seen.named("troth.coordinate", troth_outcome="ABORTED", troth_reason="REFUSED")
    assert [dict(span.attributes or {})["http.response.status_code"] for span in seen.named("POST")] == [409, 409]
    calls = [dict(span.attributes or {}) for span in seen.named("notes.Notes/Do")]
    assert [call["rpc.response.status_code"] for call in calls] == ["ABORTED", "ABORTED"]
    for span in seen.spans:
        assert SECRET not in span.to_json() and not span.events


async def test_one_shot_work_is_a_tree_and_a_client_in_threads_makes_the_same(seen: Seen, daemon: Daemon, tmp_path: Path) -> None:
    def blocking() -> None:
        with SyncClient(daemon.address) as client:
            client.run(call("left", "note", text="a"), call("right", "note", text="b"), wait="complete")

    left, right = bank_of("left", tmp_path, daemon.address), bank_of("right", tmp_path, daemon.address)
    async with left, right, Client(daemon.address) as client:
        await asyncio.gather(left.wait_connected(), right.wait_connected())
        await client.run(call("left", "note", text="a"), call("right", "note", text="b"), wait="complete")
        await asyncio.to_thread(blocking)
    await seen.until("troth.coordinate", 2)
    phases = {"troth.work": {}, "troth.vote": {}, "troth.vote+": {}, "troth.decide": {}, "troth.commit": {}}
    for tree in seen.tree().values():
        assert tree.keys() == {RUN}
        below = tree[RUN]
        assert {name.rstrip("+") for name in below} == {"troth.coordinate", "troth.prepare", "troth.finish"}
        assert below["troth.coordinate"] == phases
        assert below["troth.prepare"] == below["troth.prepare+"] == {"troth.operation": {}}
    assert len(seen.tree()) == 2


async def test_the_trace_id_is_in_the_history_and_in_an_exemplar(seen: Seen, daemon: Daemon, tmp_path: Path) -> None:
    def metrics(accept: str) -> str:
        assert daemon.observing.exporter is not None
        asked = urllib.request.Request(f"http://{daemon.observing.exporter.address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return str(answer.read().decode())

    def listing(*options: str) -> str:
        command = [sys.executable, "-m", "coordinator.cli", "txn", "list", "--finished", "--coordinator", daemon.address, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    left, right = bank_of("left", tmp_path, daemon.address), bank_of("right", tmp_path, daemon.address)
    async with left, right, Client(daemon.address) as client:
        await asyncio.gather(left.wait_connected(), right.wait_connected())
        await client.run(call("left", "note", text="a"), call("right", "note", text="b"), wait="complete")
        await seen.until("troth.coordinate")
        opened = await asyncio.to_thread(metrics, "application/openmetrics-text; version=1.0.0")
        plain = await asyncio.to_thread(metrics, "text/plain")
        listed = json.loads(await asyncio.to_thread(listing, "--json"))["transactions"]
        columns, row = (line.split("\t") for line in (await asyncio.to_thread(listing)).splitlines())
    trace_id = f"{seen.one('troth.transaction').context.trace_id:032x}"
    told = [line for line in opened.splitlines() if line.startswith("troth_phase_seconds_bucket") and "# {" in line]
    assert told and all(f'trace_id="{trace_id}"' in line for line in told)
    assert any('phase="whole"' in line for line in told)
    assert trace_id not in plain
    assert [one["trace_id"] for one in listed] == [trace_id] == [dict(zip(columns, row, strict=True))["TRACE"]]
