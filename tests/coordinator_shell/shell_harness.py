"""A daemon in this process: on the real core, or on one that does as a test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from coordinator.config import _WITHIN, Config, load
from coordinator.core import effects, events
from coordinator.directory import DataDirectory
from coordinator.server import Daemon
from coordinator.shell_settings import FRAME_OVERHEAD_BYTES, ShellSettings
from tests import left
from tests.patience import SECONDS
from troth.log.memory import Disk, MemoryLog
from troth.ready import Append, Effect, Event, Instant, Opened, Ready
from troth.v1 import admin_pb2, common_pb2, participant_pb2, participant_pb2_grpc, record_pb2


def make_config(directory: Path, **settings: Any) -> Config:
    """Settings for a test: a directory of its own and a free port."""
    flags = {"listen": "127.0.0.1:0", "data_directory": str(directory), "drain_seconds": 5.0, **_with_what_is_within(settings)}
    return load(environment={}, flags=flags).config


def _with_what_is_within(settings: dict[str, Any]) -> dict[str, Any]:
    """A limit that a test makes small, and with it those that are a part of it."""
    settings = dict(settings)
    for small, large in reversed(_WITHIN):
        if large in settings:
            settings.setdefault(small, min(settings[large], getattr(ShellSettings(), small)))
    if "frame_bytes_max" in settings:
        settings.setdefault("payload_bytes_max", max(1, settings["frame_bytes_max"] - FRAME_OVERHEAD_BYTES))
    return settings


class _Counters:
    def as_dict(self) -> dict[str, int]:
        return {"started": 0}


class ScriptedCore:
    """A core that hands each event to `react`, and wants what that returns. Operators get an empty answer."""

    epoch = 7
    log_id = "33" * 16
    has_lost = False
    unary_session = "c1.7.0badcafe.0"

    def __init__(self, react: Callable[[Event], Sequence[Effect]] = lambda event: ()) -> None:
        self.react = react
        self.events: list[Event] = []
        self.counters = _Counters()
        self.is_draining = False
        self.open = 0
        self.now_ms = time.time_ns() // 1_000_000
        self._ready = Ready()
        self._waiting: list[tuple[type, asyncio.Future[Any]]] = []

    def recover(self, records: Sequence[bytes], now: Instant, opened: Opened) -> Sequence[str]:
        return [""] * len(records)

    def step(self, event: Event, now: Instant) -> None:
        self.events.append(event)
        for kind, future in self._waiting:
            if isinstance(event, kind) and not future.done():
                future.set_result(event)
        if isinstance(event, events.Administer):
            self._ready.effects.append(effects.Administered(event.ticket, admin_pb2.DrainResponse()))
        else:
            self._ready.effects.extend(self.react(event))

    def append(self) -> None:
        """Want a record in the log with the next event."""
        record = record_pb2.CoordinatorRecord(epoch_started=record_pb2.EpochStarted(coordinator="c1", epoch=7))
        self._ready.appends.append(Append(record))

    def tick(self, now: Instant) -> None:
        """Nothing is ever due."""

    def deadline(self) -> float | None:
        return None

    def take_ready(self) -> Ready:
        ready, self._ready = self._ready, Ready()
        return ready

    def live_records(self, owner: str) -> Sequence[Any]:
        return ()

    def live_owners(self) -> int:
        return 0

    def fill(self) -> dict[str, int]:
        return {}

    def use(self, settings: Any) -> None:
        raise AssertionError("nothing is reloaded here")

    def undecided(self) -> int:
        return self.open

    async def saw(self, kind: type) -> Any:
        """Wait for the next event of a kind, unless there was one."""
        for event in self.events:
            if isinstance(event, kind):
                return event
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((kind, future))
        async with asyncio.timeout(SECONDS):
            return await future


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what must come true."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - it is looked at from outside, where nothing signals it
            await asyncio.sleep(0.005)


async def nothing_left(daemon: Daemon) -> None:
    """Its peers have left: it holds nothing for them any more, or will not in a moment."""
    if daemon.failed.done() or daemon._port.server is None or daemon._directory._lock is None:
        return
    try:
        await eventually(lambda: not list(left.in_daemon(daemon)))
    except TimeoutError:
        raise AssertionError(list(left.in_daemon(daemon))) from None


def scripted_daemon(config: Config, core: ScriptedCore, disk: Disk | None = None) -> Daemon:
    """A daemon on a scripted core and a log in memory."""
    log = MemoryLog(disk or Disk(), role="coordinator", name=config.shell.name)
    return Daemon(config, core, log, DataDirectory(Path(config.shell.data_directory)), "0badcafe")


def hello(name: str = "payments", *, log_id: str = "11" * 16, incarnation: int = 1) -> participant_pb2.Hello:
    """A Hello that is in order."""
    return participant_pb2.Hello(
        protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant=name, log_id=log_id, incarnation=incarnation
    )


class FakeParticipant:
    """A participant's stream, driven by a test. It answers nothing by itself, unless `votes` says how."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._outgoing: asyncio.Queue[participant_pb2.SessionRequest | None] = asyncio.Queue()
        self.call = participant_pb2_grpc.ParticipantServiceStub(channel).Session(self._requests())

    async def _requests(self) -> AsyncIterator[participant_pb2.SessionRequest]:
        while (frame := await self._outgoing.get()) is not None:
            yield frame

    def send(self, **fields: Any) -> None:
        """Send one frame."""
        self._outgoing.put_nowait(participant_pb2.SessionRequest(**fields))

    def leave(self) -> None:
        """Send no more."""
        self._outgoing.put_nowait(None)

    async def read(self) -> participant_pb2.SessionResponse:
        """The next frame."""
        async with asyncio.timeout(SECONDS):
            frame = await self.call.read()
        assert frame is not grpc.aio.EOF, "the stream has ended"
        return frame

    async def read_until(self, field: str) -> participant_pb2.SessionResponse:
        """The next frame that has a field."""
        while True:
            frame = await self.read()
            if any(descriptor.name == field for descriptor, _ in frame.ListFields()):
                return frame

    async def greet(self, name: str) -> participant_pb2.Welcome:
        """Say Hello with nothing to report, and read the Welcome."""
        self.send(hello=hello(name), reports_complete=True)
        return (await self.read_until("welcome")).welcome

    async def serve(self, kind: participant_pb2.VoteKind.ValueType = participant_pb2.VOTE_KIND_YES) -> None:
        """Vote as told, do as decided, until the stream ends."""
        while (frame := await self.call.read()) is not grpc.aio.EOF:
            votes = [
                participant_pb2.Vote(
                    transaction_id=prepare.transaction_id,
                    kind=participant_pb2.VOTE_KIND_COMMITTED if prepare.one_phase else kind,
                )
                for prepare in frame.prepares
            ]
            acknowledgements = [
                participant_pb2.Acknowledgement(
                    transaction_id=decision.transaction_id, kind=participant_pb2.ACKNOWLEDGEMENT_KIND_DONE
                )
                for decision in frame.decisions
                if decision.kind == participant_pb2.DECISION_KIND_COMMIT
            ]
            if votes or acknowledgements:
                self.send(votes=votes, acknowledgements=acknowledgements)


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """ErrorInfo and RetryInfo of a failed call."""
    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                for message in (error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()):
                    if detail.Unpack(message):
                        found[type(message).__name__] = message
    return found


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The stable reason of a failed call."""
    return str(details(error)["ErrorInfo"].reason)
