"""A real daemon on loopback, and peers that hold connections, flood them, or read nothing: others get on, and it ends."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fuzz import http2
from tests.fuzz.daemon import Daemon
from tests.fuzz.http2 import END_STREAM, GREETING, NO_WINDOW, SETTINGS_TAKEN, frame, frames, opened
from troth.v1 import admin_pb2, admin_pb2_grpc

SECONDS = 60
CONNECTIONS, CALLS = 20, 50
GROWTH_BYTES_MAX = 64 * 1024 * 1024
GROWTH_OF_RESETS_BYTES_MAX = 256 * 1024 * 1024
"""Calls that wait to be taken are so many, each with 14 KiB; ten connections bring five times as many."""
CHECK, STATUS = "/grpc.health.v1.Health/Check", "/troth.v1.AdminService/GetStatus"
SETTINGS_OF_DAEMON = {
    "hello_seconds": 1, "connection_idle_seconds": 2, "answer_seconds": 1, "connections_max": CONNECTIONS,
    "connection_calls_max": CALLS,
}  # fmt: skip


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    flags = [text for name, value in SETTINGS_OF_DAEMON.items() for text in ("--set", f"{name}={value}")]
    with Daemon(tmp_path_factory.mktemp("floods") / "c1", *flags) as running:
        status(running)
        yield running
        assert status(running).counters["internal_errors"] == 0
        assert "Traceback" not in running.said(), running.said()


def status(daemon: Daemon) -> admin_pb2.GetStatusResponse:
    """An honest client is answered, however many have to go before there is a connection for it."""
    with grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        response: admin_pb2.GetStatusResponse = admin_pb2_grpc.AdminServiceStub(channel).GetStatus(
            admin_pb2.GetStatusRequest(), timeout=SECONDS, wait_for_ready=True
        )
        return response


@contextlib.contextmanager
def connected(daemon: Daemon, said: bytes) -> Iterator[socket.socket]:
    """A peer that has said something. What is not taken any more is lost: the daemon has closed."""
    with socket.create_connection(daemon.endpoint, SECONDS) as one, contextlib.suppress(ConnectionError):
        with contextlib.suppress(ConnectionError):
            one.sendall(said)
        yield one


@pytest.mark.parametrize(
    "said", [b"", GREETING[:10], GREETING, GREETING + SETTINGS_TAKEN, b"\x16\x03\x01"],
    ids=["nothing", "half a preface", "a greeting that takes no settings", "a greeting", "half a TLS hello"],
)  # fmt: skip
def test_a_connection_without_a_call_is_closed(daemon: Daemon, said: bytes) -> None:
    with connected(daemon, said) as one:
        list(frames(one))  # until it is closed


def test_connections_past_the_limit_are_closed_and_the_others_stay(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.address) as channel, contextlib.ExitStack() as stack:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watching)
        crowd = [stack.enter_context(connected(daemon, GREETING)) for _ in range(3 * CONNECTIONS)]
        before_any_frame = sum(not list(frames(one)) for one in crowd)
        assert 2 * CONNECTIONS < before_any_frame < 3 * CONNECTIONS, "the one who is there already has a place too"
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        watching.cancel()
    status(daemon)


def test_a_connection_has_so_many_calls_at_once(daemon: Daemon) -> None:
    with connected(daemon, GREETING) as one:
        told = next(heard for heard in frames(one) if heard.kind == http2.SETTINGS and not heard.flags)
        pairs = {told.body[at : at + 2]: told.body[at + 2 : at + 6] for at in range(0, len(told.body), 6)}
    assert int.from_bytes(pairs[http2.MAX_CONCURRENT_STREAMS.to_bytes(2, "big")], "big") == CALLS


def test_calls_that_are_taken_back_at_once_cost_nothing_that_stays(daemon: Daemon) -> None:
    """Rapid reset (CVE-2023-44487)."""
    before = daemon.rss_bytes()
    taken_back = b"".join(
        opened(STATUS, stream) + frame(http2.DATA, END_STREAM, stream, http2.NO_MESSAGE)
        + frame(http2.RESET, 0, stream, http2.CANCEL) for stream in range(1, 10_001, 2)
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connected(daemon, GREETING + SETTINGS_TAKEN + taken_back))
        status(daemon)
    assert open_calls(daemon) == 0
    assert daemon.rss_bytes() - before < GROWTH_OF_RESETS_BYTES_MAX


def open_calls(daemon: Daemon) -> int:
    """Besides the one that asks, which is of operators."""
    return next(fill.used for fill in status(daemon).fills if fill.limit == "calls_max")


def test_a_flood_of_pings_ends_the_connection(daemon: Daemon) -> None:
    with connected(daemon, GREETING + SETTINGS_TAKEN + frame(http2.PING, 0, 0, b"12345678") * 100) as one:
        told = [heard.body[4:8] for heard in frames(one) if heard.kind == http2.GOAWAY]
    assert http2.ENHANCE_YOUR_CALM.to_bytes(4, "big") in told


def test_a_flood_of_settings_whose_answers_are_not_read_is_bounded(daemon: Daemon) -> None:
    """Each asks for an acknowledgement, which would wait in the daemon's memory (CVE-2019-9515)."""
    before = daemon.rss_bytes()
    flood = frame(http2.SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64") * 10_000
    with connected(daemon, GREETING + SETTINGS_TAKEN) as one, contextlib.suppress(ConnectionError):
        for _ in range(5):
            one.sendall(flood)  # nothing is read meanwhile
    status(daemon)
    assert daemon.rss_bytes() - before < GROWTH_BYTES_MAX


def test_metadata_that_is_too_large_is_refused_and_the_connection_goes_on(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS, metadata=[("x-much", "x" * 100_000)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)


def test_headers_without_an_end_are_bounded(daemon: Daemon) -> None:
    """CONTINUATION flood (CVE-2024-27316)."""
    before = daemon.rss_bytes()
    part = frame(9, 0, 1, http2.headers(CHECK, **{"x-much": "x" * 10_000}))
    with connected(daemon, GREETING + SETTINGS_TAKEN + frame(http2.HEADERS, 0, 1, http2.headers(CHECK))) as one:
        with contextlib.suppress(ConnectionError):
            for _ in range(3_000):
                one.sendall(part)
        status(daemon)
    assert daemon.rss_bytes() - before < GROWTH_BYTES_MAX


def test_calls_of_who_reads_no_answer_are_given_up(daemon: Daemon) -> None:
    streams = list(itertools.islice(itertools.count(1, 2), CALLS))
    asked = b"".join(opened(STATUS, one) + frame(http2.DATA, END_STREAM, one, http2.NO_MESSAGE) for one in streams)
    with connected(daemon, NO_WINDOW + SETTINGS_TAKEN + asked) as one:
        ended: set[int] = set()
        for heard in frames(one):
            if heard.kind == http2.RESET or (heard.kind == http2.HEADERS and heard.flags & END_STREAM):
                ended.add(heard.stream)
            if len(ended) == CALLS:
                break
        assert ended == set(streams)
    status(daemon)
