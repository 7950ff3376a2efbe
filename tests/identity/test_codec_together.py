"""The example of `docs/how-to/encrypt-payloads.md` on a real coordinator: the line to it is listened to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from closed_world import PATIENCE_SECONDS, connected
from test_payload_keys_together import started

from participant_sdk import entered
from participant_sdk.client import Client, SyncClient, call
from tests.repo.sources import ROOT
from troth.errors import Aborted, Reason, RequestError

sys.path.insert(0, str(ROOT / "examples" / "opaque"))
from main import make_pharmacy, run
from siv import KEY_BYTES, SivCodec

CODEC = SivCodec({"k1": bytes(range(KEY_BYTES))})
PRESCRIPTION = call("pharmacy", "prescribe", patient="Ada", drug="aspirin")


class Line:
    """What goes to and fro between everybody and the coordinator. Without TLS payload is there as it is sent."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.heard = bytearray()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.heard += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass_on(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The address at which it is listened."""
        server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_the_coordinator_gets_nothing_that_it_could_read(tmp_path: Path) -> None:
    async with started(tmp_path, "") as daemon:
        line = Line(daemon.address)
        async with line.open() as address:
            done = await run(tmp_path / "pharmacy", address, CODEC)
            assert done.results == {"pharmacy": ["aspirin for Ada"]}
            again = await run(tmp_path / "pharmacy", address, CODEC)
            assert (again.transaction_id, again.replayed) == (done.transaction_id, True), "a retry is known as one"
    assert b"prescribe" in line.heard, "names are in clear"
    for secret in (b"Ada", b"aspirin", b"patient"):
        assert secret not in line.heard
        assert [path for path in (tmp_path / "c1").iterdir() if secret in path.read_bytes()] == []


async def test_who_has_no_codec_gets_a_reason_and_nothing_happens(tmp_path: Path) -> None:
    async with started(tmp_path, "") as daemon, make_pharmacy(tmp_path / "pharmacy", daemon.address, CODEC) as pharmacy:
        await connected(pharmacy)
        async with Client(daemon.address) as client:
            with pytest.raises(Aborted) as caught:
                await client.run(PRESCRIPTION, timeout=PATIENCE_SECONDS)
            assert caught.value.reason is Reason.PAYLOAD_UNREADABLE
        assert await pharmacy.read(lambda db: db.one("SELECT count(*) FROM prescriptions")[0]) == 0


async def test_a_service_that_takes_both_for_a_while_answers_encoded(tmp_path: Path) -> None:
    both = SivCodec({"k1": bytes(range(KEY_BYTES))})
    both.clear_allowed = True
    async with started(tmp_path, "") as daemon, make_pharmacy(tmp_path / "pharmacy", daemon.address, both) as pharmacy:
        await connected(pharmacy)
        async with Client(daemon.address) as client, Client(daemon.address, codec=CODEC) as reader:
            done = await client.run(PRESCRIPTION, timeout=PATIENCE_SECONDS)
            with pytest.raises(RequestError) as unreadable:
                done.results  # noqa: B018 - it is decoded when it is asked for
            assert unreadable.value.reason is Reason.PAYLOAD_UNREADABLE
            assert (await reader.run(PRESCRIPTION, timeout=PATIENCE_SECONDS)).results == {"pharmacy": ["aspirin for Ada"]}


async def test_calls_inside_of_a_service_and_threads_have_it_too(tmp_path: Path) -> None:
    async with started(tmp_path, "") as daemon, make_pharmacy(tmp_path / "pharmacy", daemon.address, CODEC) as pharmacy:
        await connected(pharmacy)
        async with Client(daemon.address, codec=CODEC) as client, client.transaction(timeout=PATIENCE_SECONDS) as tx:
            with entered(tx.context(), tells=True) as scope:
                assert await pharmacy.branch().run("prescribe", patient="Ada", drug="aspirin") == "aspirin for Ada"
            tx.acknowledge(*scope.acknowledgements)

        def in_a_thread() -> object:
            with SyncClient(daemon.address, codec=CODEC) as client:
                return client.run(PRESCRIPTION, timeout=PATIENCE_SECONDS).results

        assert await asyncio.to_thread(in_a_thread) == {"pharmacy": ["aspirin for Ada"]}
        assert await pharmacy.read(lambda db: db.one("SELECT count(*) FROM prescriptions")[0]) == 2
