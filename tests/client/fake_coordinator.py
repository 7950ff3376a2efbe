"""A coordinator that does what a test tells it: it takes frames, and answers from a script."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2
from troth.values import encode_value

COMMITTED = common_pb2.OUTCOME_COMMITTED
ABORTED = common_pb2.OUTCOME_ABORTED
IN_DOUBT = common_pb2.OUTCOME_IN_DOUBT
FIELDS = ("runs", "begins", "commits", "aborts", "gets")

Handler = Callable[["FakeStream", Any], None]


class FakeStream:
    """One stream of one client."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.out: asyncio.Queue[client_pb2.ConnectResponse | None] = asyncio.Queue()

    def send(self, **fields: Any) -> None:
        """Send one frame."""
        self.out.put_nowait(client_pb2.ConnectResponse(**fields))

    def answer(self, number: int, outcome: Any = COMMITTED, **fields: Any) -> None:
        """Answer a run, commit or abort."""
        transaction_id = fields.pop("transaction_id", f"{self.session}.{number}")
        self.send(answers=[client_pb2.Answer(number=number, transaction_id=transaction_id, outcome=outcome, **fields)])

    def begun(self, number: int, **fields: Any) -> None:
        """Answer a begin."""
        self.send(begun=[client_pb2.BeginResponse(number=number, transaction_id=f"{self.session}.{number}", **fields)])

    def got(self, transaction_id: str, outcome: Any, **fields: Any) -> None:
        """Answer a get."""
        asked = fields.pop("asked", "")  # a coordinator of an earlier release does not say it
        answer = client_pb2.Answer(transaction_id=transaction_id, outcome=outcome, **fields)
        self.send(got=[client_pb2.GetResponse(answer=answer, transaction_id=asked)])

    def goodbye(self, reason: str, *, retryable: bool) -> None:
        """Say goodbye, and end the stream."""
        cause = common_pb2.Cause(reason=reason, retryable=retryable, message=f"goodbye: {reason}")
        self.send(goodbye=client_pb2.ClientGoodbye(cause=cause))
        self.end()

    def end(self) -> None:
        """End the stream after what was sent."""
        self.out.put_nowait(None)


def results(participant: str, *values: object) -> client_pb2.BranchResults:
    """What a participant's operations returned."""
    message = common_pb2.Results(values=[encode_value(value) for value in values])
    return client_pb2.BranchResults(participant=participant, results=message.SerializeToString())


def cause(reason: str, **fields: Any) -> common_pb2.Cause:
    """Why something was not done."""
    return common_pb2.Cause(reason=reason, message=f"because of {reason}", **fields)


class FakeCoordinator(client_pb2_grpc.TransactionServiceServicer):
    """Listens on a free port. By default begins begin, runs and commits commit, aborts abort, and gets are in doubt.

    `handlers[FIELD]` replaces what is done with the messages of a field; `None` leaves them unanswered.
    """

    def __init__(self) -> None:
        self.epoch = 1
        self.sessions = 0
        self.known: set[str] = set()
        self.limits = common_pb2.Limits(frame_bytes_max=1_000_000, timeout_ms_max=60_000, key_bytes_max=16)
        self.capabilities: list[str] = []
        self.handlers: dict[str, Handler | None] = {
            "runs": lambda stream, run: stream.answer(run.number),
            "begins": lambda stream, begin: stream.begun(begin.number),
            "commits": lambda stream, commit: stream.answer(commit.number),
            "aborts": lambda stream, abort: stream.answer(abort.number, ABORTED, cause=cause("CLIENT_ABORT")),
            "gets": lambda stream, get: stream.got(get.transaction_id, IN_DOUBT),
        }
        self.greet: Callable[[FakeStream], bool] = lambda stream: True
        self.hellos: list[client_pb2.ClientHello] = []
        self.frames: list[client_pb2.ConnectRequest] = []
        self.streams: list[FakeStream] = []
        self._arrived: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    async def start(self) -> None:
        """Listen."""
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        client_pb2_grpc.add_TransactionServiceServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()

    async def stop(self) -> None:
        """End all streams and stop."""
        self.drop()
        await self.server.stop(None)

    def drop(self) -> None:
        """End all streams."""
        for stream in self.streams:
            stream.end()

    def restart(self) -> None:
        """A new epoch that knows no session."""
        self.epoch += 1
        self.known.clear()
        self.drop()

    @property
    def stream(self) -> FakeStream:
        """The newest stream."""
        return self.streams[-1]

    async def next(self, field: str) -> Any:
        """The next message of a field that has not been asked for; waits for it. `hello` and `answered_below` work too."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._arrived[field].get()

    def arrived(self, field: str) -> int:
        """How many messages of a field have not been asked for."""
        return self._arrived[field].qsize()

    # ---- the service

    async def Connect(self, request_iterator: Any, context: Any) -> None:
        """Carry one client's stream."""
        stream = self._open((await context.read()).hello)
        reader = asyncio.create_task(self._read(stream, context))
        try:
            while (frame := await stream.out.get()) is not None:
                await context.write(frame)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _open(self, hello: client_pb2.ClientHello) -> FakeStream:
        self.hellos.append(hello)
        resumed = hello.session in self.known
        if not resumed:
            self.sessions += 1
        name = hello.session if resumed else f"c1.{self.epoch}.9f2c4e1a.{self.sessions}"
        self.known.add(name)
        stream = FakeStream(name)
        self.streams.append(stream)
        if self.greet(stream):
            welcome = client_pb2.ClientWelcome(
                protocol_version=1, session=name, resumed=resumed, coordinator="c1", epoch=self.epoch, limits=self.limits,
                capabilities=self.capabilities,
            )
            stream.send(welcome=welcome)
        self._arrived["hello"].put_nowait(hello)
        return stream

    async def _read(self, stream: FakeStream, context: Any) -> None:
        while (frame := await context.read()) is not grpc.aio.EOF:
            self.frames.append(frame)
            for field in FIELDS:
                for message in getattr(frame, field):
                    if field == "commits" and message.HasField("begin"):
                        self._arrived["begins"].put_nowait(message.begin)  # it begins with its commit
                    self._arrived[field].put_nowait(message)
                    handler = self.handlers[field]
                    if handler is not None:
                        handler(stream, message)
            if frame.answered_below:
                self._arrived["answered_below"].put_nowait(frame.answered_below)
        stream.end()

    # ---- unary calls are not played here

    Run = Begin = Commit = Abort = Get = Watch = None
