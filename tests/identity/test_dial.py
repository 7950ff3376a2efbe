"""Whoever dials shows the certificate that lies there now; a broken one is told, and the last good one stays in use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from private_authority import Pki

from coordinator.cell.forwarding import Forward
from coordinator.cell.questions import OwnCall
from coordinator.pki import authority
from troth.channel import dialled
from troth.errors import ConfigError
from troth.identity.peer import Identity, identity_of
from troth.identity.tls import Tls, server_credentials
from troth.v1 import client_pb2

METHOD = "/test/Talk"


class Listener:
    """A server that notes who calls."""

    def __init__(self) -> None:
        self.serials: list[str] = []
        self.identities: list[Identity] = []
        self.address = ""

    async def talk(self, requests: Any, context: Any) -> None:
        """One stream: note whose certificate is behind it."""
        self.note(context)

    async def get(self, request: bytes, context: Any) -> bytes:
        """A call that another node passes on."""
        self.note(context)
        return b""

    def note(self, context: Any) -> None:
        """Whose certificate is behind a call."""
        shown = context.auth_context()
        self.serials.append(f"{x509.load_pem_x509_certificate(shown['x509_pem_cert'][0]).serial_number:x}")
        self.identities.append(identity_of(shown))


@pytest_asyncio.fixture
async def listener(pki: Pki) -> AsyncIterator[Listener]:
    """A listening server with TLS both ways."""
    listener = Listener()
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(listener.talk)
    get = grpc.unary_unary_rpc_method_handler(listener.get)
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("test", {"Talk": handler}),
        grpc.method_handlers_generic_handler("troth.v1.TransactionService", {"Get": get}),
    ))  # fmt: skip
    credentials = server_credentials(pki.tls("server", "127.0.0.1"), lambda error: None)
    listener.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    yield listener
    await server.stop(None)


def _replaced(tls: Tls, content: bytes) -> bytes:
    """Write another certificate; returns what was there."""
    before = Path(tls.certificate).read_bytes()
    Path(tls.certificate).write_bytes(content)
    return before


async def _talk(connect: Any) -> None:
    call = connect()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_the_newest_certificate_is_shown(pki: Pki, listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "troth.channel")
    tls = pki.tls("web", "spiffe://example.org/web")
    shown = [authority.show(Path(tls.certificate)).serial]
    async with dialled(listener.address, METHOD, None, tls) as connect:
        await _talk(connect)
        await _talk(connect)
        pki.tls("web", "web.internal")
        shown.append(authority.show(Path(tls.certificate)).serial)
        await _talk(connect)
        good = _replaced(tls, b"no certificate")
        await _talk(connect)
        _replaced(tls, good)
        await _talk(connect)
    assert listener.serials == [shown[0]] * 2 + [shown[1]] * 3
    assert [str(one) for one in listener.identities] == ["spiffe://example.org/web"] * 2 + ["web.internal"] * 3
    assert [record.message for record in caplog.records if "TLS" in record.message][1].startswith("new files of TLS cannot be used")


async def test_a_node_that_passes_calls_on_shows_the_newest_certificate(
    pki: Pki, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    tls = pki.tls("node", "node.internal")
    shown = [authority.show(Path(tls.certificate)).serial]
    forward = Forward(lambda shard: listener.address, tls)

    async def get() -> None:
        await forward.unary("c1-00", "transactions", "Get", client_pb2.GetRequest(), OwnCall())

    await get()
    pki.tls("node", "node.internal")
    shown.append(authority.show(Path(tls.certificate)).serial)
    await get()
    good = _replaced(tls, b"no certificate")
    await get()
    await get()
    _replaced(tls, good)
    await get()
    await forward.close()
    assert listener.serials == [shown[0]] + [shown[1]] * 4
    assert caplog.text.count("new files of TLS cannot be used") == 1
    _replaced(tls, b"no certificate")
    with pytest.raises(ConfigError):
        await Forward(lambda shard: listener.address, tls).unary("c1-00", "transactions", "Get", client_pb2.GetRequest(), OwnCall())
