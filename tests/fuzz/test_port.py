"""A real daemon on loopback whose port is knocked on by everything but its peers: it serves honest ones afterwards."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from participant_sdk import LogResource, Participant
from participant_sdk.client import Client, call
from tests.fuzz.daemon import Daemon
from tests.fuzz.http2 import EMPTY_SETTINGS, NO_WINDOW, PREFACE, frame, opened
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, participant_pb2, participant_pb2_grpc

SECONDS = 20
GROWTH_BYTES_MAX = 96 * 1024 * 1024
"""How much the daemon may grow: gRPC keeps what it has once allocated."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    flags = ("--set", "hello_seconds=0.5", "--set", "frame_bytes_max=2000000", "--set", "goodbye_seconds=0.5")
    with Daemon(tmp_path_factory.mktemp("port") / "c1", *flags) as running:
        yield running
        # Nothing that the tests did was an accident inside of the daemon.
        assert status(running).counters["internal_errors"] == 0
        assert "Traceback" not in running.said()


def status(daemon: Daemon) -> admin_pb2.GetStatusResponse:
    with grpc.insecure_channel(daemon.address) as channel:
        response: admin_pb2.GetStatusResponse = admin_pb2_grpc.AdminServiceStub(channel).GetStatus(
            admin_pb2.GetStatusRequest(), timeout=SECONDS
        )
        return response


async def serves(daemon: Daemon, directory: Path) -> None:
    """An honest participant and an honest client commit."""
    name = directory.name
    bank = Participant(name, resource=LogResource(), data_directory=directory, coordinator=daemon.address)

    @bank.operation
    def note(db: object, *, text: str) -> str:
        return text

    async with bank, Client(daemon.address) as client:
        await bank.wait_connected()
        done = await client.run(call(name, "note", text="honest"), timeout=SECONDS)
        assert done.results == {name: ["honest"]}
    assert daemon.process.poll() is None


def knock(daemon: Daemon, data: bytes, *, half_close: bool = True) -> bytes:
    """Send bytes, and take what comes until the other side closes or is silent."""
    answer = b""
    with socket.create_connection(daemon.endpoint, SECONDS) as one, contextlib.suppress(OSError):
        one.sendall(data)
        if half_close:
            one.shutdown(socket.SHUT_WR)
        one.settimeout(0.3)
        while part := one.recv(65536):
            answer += part
    return answer


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(4096)


KNOCKS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "random bytes": lambda: noise(1),
    "HTTP/1.1": lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 upgrade": lambda: b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "half a preface": lambda: PREFACE[:10],
    "preface and noise": lambda: PREFACE + noise(2),
    "a frame of 16 MiB that never comes": lambda: PREFACE + EMPTY_SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "data without headers": lambda: PREFACE + EMPTY_SETTINGS + frame(0, 1, 1, b"\x00\x00\x00\x00\x05hello"),
    "headers that are none": lambda: PREFACE + EMPTY_SETTINGS + frame(1, 4, 1, noise(3)[:100]),
    "headers without an end": lambda: PREFACE + EMPTY_SETTINGS + frame(1, 0, 1, b"") + frame(9, 0, 1, b"\x00" * 900) * 50,
    "pings": lambda: PREFACE + EMPTY_SETTINGS + frame(6, 0, 0, b"12345678") * 3000,
    "resets": lambda: PREFACE + EMPTY_SETTINGS + b"".join(frame(3, 0, n, b"\x00\x00\x00\x08") for n in range(1, 2001, 2)),
    "window of nothing": lambda: PREFACE + EMPTY_SETTINGS + frame(8, 0, 0, b"\x00\x00\x00\x00"),
    "TLS hello": lambda: tls_hello(),
}


def tls_hello() -> bytes:
    """The first flight of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("what", KNOCKS)
def test_knocks_do_not_stop_it(daemon: Daemon, what: str) -> None:
    for half_close in (True, False):
        answer = knock(daemon, KNOCKS[what](), half_close=half_close)
        assert b"Traceback" not in answer
        assert b"site-packages" not in answer
    assert status(daemon).coordinator == "c1"


async def test_a_thousand_slow_connections_are_bounded(daemon: Daemon, tmp_path: Path) -> None:
    """Connections that say a little and then nothing (slow-loris), while an honest client works."""
    await serves(daemon, tmp_path / "before")
    before = daemon.rss_bytes()
    with contextlib.ExitStack() as stack:
        for number in range(300):
            one = stack.enter_context(socket.create_connection(daemon.endpoint, SECONDS))
            one.sendall((PREFACE + EMPTY_SETTINGS)[: 1 + number % 33])
        await serves(daemon, tmp_path / "during")
    for number in range(60):
        knock_quickly(daemon, PREFACE + EMPTY_SETTINGS + noise(number) * 8)
    await serves(daemon, tmp_path / "after")
    assert daemon.rss_bytes() - before < GROWTH_BYTES_MAX


def knock_quickly(daemon: Daemon, data: bytes) -> None:
    with socket.create_connection(daemon.endpoint, SECONDS) as one, contextlib.suppress(OSError):
        one.sendall(data)


# ---- inside of gRPC: bytes that are no messages, streams that say nothing


def raw_stream(daemon: Daemon, method: str, frames: list[bytes]) -> tuple[list[bytes], grpc.StatusCode, str]:
    """Send frames of bytes on one stream; what came back, and how it ended."""
    with grpc.insecure_channel(daemon.address) as channel:
        stream = channel.stream_stream(method)(iter(frames), timeout=SECONDS)
        answers: list[bytes] = []
        with contextlib.suppress(grpc.RpcError):
            answers.extend(stream)
        return answers, stream.code(), stream.details()


SESSION, CONNECT = "/troth.v1.ParticipantService/Session", "/troth.v1.TransactionService/Connect"
HELLO = participant_pb2.Hello(participant="loris", log_id="loris", incarnation=1)
HELLO.protocol.lowest = HELLO.protocol.highest = 1
CLIENT_HELLO = client_pb2.ClientHello()
CLIENT_HELLO.protocol.lowest = CLIENT_HELLO.protocol.highest = 1
NO_FRAMES = {
    "garbage": b"\xff" * 30, "a length that lies": b"\x0a\xff\xff\xff\xff\x07abc",
    "text that is not UTF-8": b"\x0a\x04\x12\x02\xff\xfe",
    "half a message": b"\x0a\x10\x0a\x04", "too large": b"\x0a" + b"x" * 2_000_001,
}  # fmt: skip


@pytest.mark.parametrize("method", [SESSION, CONNECT])
@pytest.mark.parametrize("what", [*NO_FRAMES, "nothing"])
def test_bytes_that_are_no_frame_get_a_goodbye(daemon: Daemon, method: str, what: str) -> None:
    kind = participant_pb2.SessionResponse if method == SESSION else client_pb2.ConnectResponse
    frames = [] if what == "nothing" else [NO_FRAMES[what]]
    answers, _, details = raw_stream(daemon, method, frames)
    told = kind.FromString(answers[-1]).goodbye.cause
    assert told.reason == {"too large": "FRAME_TOO_LARGE", "nothing": "PROTOCOL_ERROR"}.get(what, "INVALID_ARGUMENT")
    assert "Error" not in details + told.message.replace("Error parsing", "x")


@pytest.mark.parametrize("what", [*NO_FRAMES])
def test_bytes_after_the_greeting_get_a_goodbye(daemon: Daemon, what: str) -> None:
    for method, hello, kind in (
        (SESSION, participant_pb2.SessionRequest(hello=HELLO), participant_pb2.SessionResponse),
        (CONNECT, client_pb2.ConnectRequest(hello=CLIENT_HELLO), client_pb2.ConnectResponse),
    ):
        answers, _, _ = raw_stream(daemon, method, [hello.SerializeToString(), NO_FRAMES[what]])
        told = kind.FromString(answers[-1]).goodbye.cause  # type: ignore[attr-defined]  # both kinds have it
        assert told.reason in ("FRAME_TOO_LARGE", "INVALID_ARGUMENT")


@pytest.mark.parametrize("over", [True, False], ids=["and-leaves", "and-stays"])
@pytest.mark.parametrize("greets", [True, False], ids=["greets", "is-no-peer"])
@pytest.mark.parametrize("method", [SESSION, CONNECT])
def test_who_reads_nothing_gets_no_goodbye_and_costs_no_call(daemon: Daemon, method: str, greets: bool, over: bool) -> None:
    """The first write of a stream hangs, and the stream is ended meanwhile: that is no accident, and the call is given back."""
    hello = participant_pb2.SessionRequest(hello=HELLO) if method == SESSION else client_pb2.ConnectRequest(hello=CLIENT_HELLO)
    said = [*([hello.SerializeToString()] if greets else []), NO_FRAMES["garbage"]]
    data = b"".join(b"\x00" + len(one).to_bytes(4, "big") + one for one in said)
    heard = status(daemon).counters["malformed_frames"]
    with socket.create_connection(daemon.endpoint, SECONDS) as one:
        one.sendall(NO_WINDOW + opened(method) + frame(0, int(over), 1, data))
        deadline = time.monotonic() + SECONDS
        while (now := status(daemon)).counters["malformed_frames"] == heard or calls_open(now):
            assert time.monotonic() < deadline, "its call is still held"
    assert status(daemon).counters["internal_errors"] == 0
    assert "Traceback" not in daemon.said(), daemon.said()


def calls_open(now: admin_pb2.GetStatusResponse) -> int:
    return next(fill.used for fill in now.fills if fill.limit == "calls_max")


def test_a_stream_that_says_nothing_is_sent_away(daemon: Daemon) -> None:
    over = threading.Event()

    def never() -> Iterator[participant_pb2.SessionRequest]:
        over.wait(SECONDS)
        yield from ()

    with grpc.insecure_channel(daemon.address) as channel:
        silent = participant_pb2_grpc.ParticipantServiceStub(channel).Session(never(), timeout=SECONDS)
        assert "no Hello" in next(iter(silent)).goodbye.cause.message
        over.set()


def test_unary_bytes_that_are_no_message(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        for method in ("Run", "Begin", "Commit", "Abort", "Get"):
            call_it = channel.unary_unary(f"/troth.v1.TransactionService/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                call_it(b"\xff" * 30, timeout=SECONDS)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details().startswith("INVALID_ARGUMENT: ")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/troth.v1.TransactionService/Nothing")(b"", timeout=SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
