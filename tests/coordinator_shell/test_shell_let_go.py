"""What a peer has said is let go when its stream or call ends, and does not wait for the collector."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from shell_harness import SECONDS, eventually, hello

from coordinator.server import Daemon
from troth.v1 import client_pb2, common_pb2, participant_pb2

WATCHED = "c1.7.0badcafe.0.1"
LARGE = "x" * 1_000_000
SESSION, CALL = "/troth.v1.ParticipantService/Session", "/troth.v1.TransactionService/"
CONNECT = CALL + "Connect"
PROTOCOL = common_pb2.ProtocolRange(lowest=1, highest=99)


def refused_hello() -> participant_pb2.SessionRequest:
    said = hello()
    said.software = LARGE
    return participant_pb2.SessionRequest(hello=said)


SAID: dict[str, tuple[str, Callable[[], list[Message]]]] = {
    "a Hello that is refused": (SESSION, lambda: [refused_hello()]),
    "a frame that was heard": (
        SESSION,
        lambda: [
            participant_pb2.SessionRequest(hello=hello()),
            participant_pb2.SessionRequest(undeclared=[common_pb2.Operation(name=LARGE)]),
        ],
    ),
    "a client's frame": (
        CONNECT,
        lambda: [
            client_pb2.ConnectRequest(
                hello=client_pb2.ClientHello(protocol=PROTOCOL), gets=[client_pb2.GetRequest(transaction_id=WATCHED, key=LARGE)]
            )
        ],
    ),
    "a frame of too many": (
        SESSION, lambda: [participant_pb2.SessionRequest(hello=hello(), votes=[participant_pb2.Vote()] * 600_000)],
    ),
    "a call of too many": (CALL + "Run", lambda: [client_pb2.RunRequest(branches=[client_pb2.BranchRequest()] * 600_000)]),
    "a call that is refused": (CALL + "Begin", lambda: [client_pb2.BeginRequest(key=LARGE)]),
    "a call that is answered": (CALL + "Get", lambda: [client_pb2.GetRequest(transaction_id=WATCHED, participants=[LARGE])]),
    "a watch that is refused": (CALL + "Watch", lambda: [client_pb2.WatchRequest(transaction_id=LARGE)]),
}  # fmt: skip


def _large_messages() -> list[Message]:
    """Those that somebody holds, dead circles among them; a message itself is not known to the collector."""
    # By its type: what else lives in this process may answer for its class by itself, as Django's settings do.
    found = {id(one): one for holder in gc.get_objects() for one in gc.get_referents(holder) if issubclass(type(one), Message)}
    return [one for one in found.values() if one.ByteSize() > len(LARGE)]


@pytest.mark.parametrize("what", SAID)
async def test_what_a_peer_has_said_is_let_go_without_the_collector(daemon: Daemon, what: str) -> None:
    """A full collection comes after hours, and a frame of the smallest messages takes forty times its bytes."""
    method, make = SAID[what]
    gc.collect()
    others = _large_messages()  # what other tests of this process keep; held here, so that no new one gets its place
    raw = [message.SerializeToString() for message in make()]
    gc.disable()
    try:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            if method in (SESSION, CONNECT):
                call = channel.stream_stream(method)()
                for one in raw:
                    await call.write(one)
                await call.read()
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await channel.unary_unary(method)(raw[0], timeout=SECONDS)
        await eventually(lambda: not [one for one in _large_messages() if not any(one is other for other in others)])
    finally:
        gc.enable()
