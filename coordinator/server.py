"""The daemon: one core, one engine, one gRPC server, one data directory.

Start: take the directory, bind the port, recover, serve. The port is bound before the log is opened, so that a second daemon
on the same port changes nothing. End: refuse new work, wait for what is undecided, say Goodbye to every stream, stop. What is
decided and not yet acknowledged goes on after the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it comes without stubs
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # it comes without stubs

from coordinator.config import Config, split_address
from coordinator.core import effects
from coordinator.core.core import CoordinatorCore
from coordinator.directory import DataDirectory
from coordinator.services import status
from coordinator.services.admin import AdminService
from coordinator.services.context import Context, CoordinatorCoreView
from coordinator.services.guard import Guard
from coordinator.services.participants import ParticipantService
from coordinator.services.sessions import Sessions
from coordinator.services.transactions import TransactionEffects, TransactionService, UnarySession
from troth.engine import Engine
from troth.errors import ConfigError, ProtocolError, Reason, TrothError
from troth.log.contract import Log
from troth.log.sqlite import SqliteLog
from troth.ready import Effect, Event
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, participant_pb2, participant_pb2_grpc

log = structlog.get_logger("troth.server")

LIVENESS = "troth.liveness"
"""Health name: the process works. Stays SERVING in a drain, so that nobody kills the process for draining."""
READINESS = "troth.readiness"
"""Health name: new work is welcome. The empty name means the same."""

DRAIN_POLL_SECONDS = 0.05
MIN_PING_INTERVAL_MS = 10_000
"""Peers may ping as often as this; clients do so every 30 s, and gRPC's own default of 300 s would cut them off."""


class PortTaken(TrothError):
    """The address cannot be bound."""


class Daemon:
    """One running coordinator. `failed` is done when it must stop at once."""

    def __init__(
        self, config: Config, core: CoordinatorCoreView, coordinator_log: Log, directory: DataDirectory, nonce: str
    ) -> None:
        self.config = config
        self._core = core
        self._directory = directory
        self._engine = Engine("coordinator", core, coordinator_log, self._perform, on_violation=self._violated)
        self._context = Context(config, core, nonce, self._engine.submit, self._engine.submit_all)
        self._sessions = Sessions(self._context)
        self._unary = UnarySession(self._context)
        self._participants = ParticipantService(self._context)
        self._answers = TransactionEffects(self._sessions, self._unary)
        self._admin = AdminService(self._context, self.counters, self._not_ready)
        self._health = health.aio.HealthServicer()
        self._performers = self._all_performers()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self.address = ""
        self.hurry = asyncio.Event()
        """Set by a second signal: do not wait for anybody."""

    @property
    def failed(self) -> asyncio.Future[TrothError]:
        """Gets the error that ended the engine."""
        return self._engine.failed

    @property
    def epoch(self) -> int:
        """The epoch of this boot; valid after `start`."""
        return self._core.epoch

    # ---- starting

    async def start(self) -> None:
        """Take the directory and the port, recover, and serve. Raises `TrothError` with everything released."""
        self._directory.lock()
        try:
            self._directory.remove_address()
            self._server = self._make_server()
            self.address = _bind(self._server, self.config.shell.listen)
            await self._engine.start()
            await self._epoch_durable()
            await self._server.start()
            await self._set_health(health_pb2.HealthCheckResponse.SERVING, (LIVENESS, READINESS, ""))
            self._directory.write_address(self.address)
        except TrothError:
            await self._release()
            raise

    async def _epoch_durable(self) -> None:
        """Wait until the core answers: it holds everything back until its EpochStarted record is durable."""
        asking = asyncio.ensure_future(self._admin.ask(admin_pb2.ListParticipantsRequest()))
        await asyncio.wait((asking, self.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            asking.cancel()
            raise self.failed.result()

    def _make_server(self) -> grpc.aio.Server:
        shell = self.config.shell
        server = grpc.aio.server(
            interceptors=[Guard(shell.frame_bytes_max, self._context.counters)],
            options=_server_options(self.config),
            maximum_concurrent_rpcs=shell.calls_max,
        )
        service = TransactionService(self._context, self._sessions, self._unary)
        client_pb2_grpc.add_TransactionServiceServicer_to_server(service, server)
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(self._participants, server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        modules = (client_pb2, participant_pb2, admin_pb2)
        names = [one.full_name for module in modules for one in module.DESCRIPTOR.services_by_name.values()]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    # ---- effects

    def _all_performers(self) -> dict[type, Callable[[Any], None]]:
        return {
            effects.Send: self._participants.send,
            effects.SendWatermark: self._participants.send_watermark,
            effects.Welcomed: self._participants.welcomed,
            effects.Rejected: self._participants.rejected,
            effects.Begun: self._answers.begun,
            effects.Answered: self._answers.answered,
            effects.Got: lambda effect: effect.ticket(effect.answer),
            effects.Watched: lambda effect: effect.ticket(effect.response, effect.last),
            effects.Administered: lambda effect: effect.ticket(effect.response),
        }

    def _perform(self, effect: Effect) -> None:
        try:
            self._performers[type(effect)](effect)
        except Exception as error:
            # One peer is not told something, which every peer must survive; the daemon need not end for that.
            self._context.counters.internal_errors += 1
            log.error("an effect was not carried out", kind=type(effect).__name__, exc_info=error)

    def _violated(self, event: Event, error: ProtocolError) -> None:
        """The core refused an event; nothing has changed, and whoever waits for an answer is told."""
        log.warning("protocol violation", event_kind=type(event).__name__, error=error.message)
        if hasattr(event, "ticket"):
            fail = getattr(event.ticket, "fail", None)
            if fail is not None:
                fail(error)
        elif hasattr(event, "request") and hasattr(event, "session"):
            self._answers.violated(event, error)

    def counters(self) -> dict[str, int]:
        """Everything that is counted, by name."""
        engine = self._engine.counters
        return {
            **self._core.counters.as_dict(),
            **self._context.counters.as_dict(),
            "records": engine.records,
            "forced_records": engine.forced_records,
            "batches": engine.batches,
            "syncs": engine.syncs,
            "protocol_errors": engine.protocol_errors,
            "participant_streams_open": self._participants.open_streams(),
            "client_streams_open": self._sessions.open_streams(),
            "undecided": self._core.undecided(),
        }

    # ---- ending

    def _not_ready(self) -> None:
        task = asyncio.create_task(self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING, (READINESS, "")))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Refuse new work and wait, up to `drain_seconds`, until nothing is undecided."""
        seconds = self.config.shell.drain_seconds
        log.info("draining", undecided=self._core.undecided(), drain_seconds=seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._admin.ask(admin_pb2.DrainRequest())
                self._not_ready()
                while self._core.undecided() and not self.hurry.is_set() and not self.failed.done():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.hurry.wait(), DRAIN_POLL_SECONDS)
        if self._core.undecided():
            log.warning("transactions are left undecided; they abort", undecided=self._core.undecided())

    async def stop(self) -> None:
        """Say Goodbye to every stream, stop the server, make durable what is queued, release the directory."""
        cause = status.cause(Reason.DRAINING, f"coordinator {self.config.shell.name} is going down")
        self._participants.end_all(cause)
        self._sessions.end_all(cause)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.shell.goodbye_seconds):
                while self._participants.open_streams() + self._sessions.open_streams():
                    self._context.stream_ended.clear()
                    await self._context.stream_ended.wait()
        await self._release()

    async def abandon(self) -> None:
        """The log has failed: stop at once, and say nothing more to anybody."""
        await self._release()

    async def _release(self) -> None:
        self._directory.remove_address()
        self._sessions.close()
        if self._server is not None:
            await self._server.stop(grace=None)
        with contextlib.suppress(TrothError):
            await self._engine.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._directory.unlock()

    async def _set_health(self, serving: health_pb2.HealthCheckResponse.ServingStatus, names: tuple[str, ...]) -> None:
        for name in names:
            await self._health.set(name, serving)


def make_daemon(config: Config) -> Daemon:
    """A daemon on the real core and the real log. Call it inside the running loop."""
    directory = DataDirectory(Path(config.shell.data_directory))
    nonce = secrets.token_hex(4)
    core = CoordinatorCore(config.core, config.shell.name, nonce)
    coordinator_log = SqliteLog(directory.log_file, role="coordinator", name=config.shell.name)
    return Daemon(config, core, coordinator_log, directory, nonce)


def _server_options(config: Config) -> list[tuple[str, int]]:
    shell = config.shell
    return [
        # Two daemons could otherwise bind the same port, silently.
        ("grpc.so_reuseport", 0),
        # A little more than the limit: what is a little too large is refused by us, with a reason.
        ("grpc.max_receive_message_length", shell.frame_bytes_max + shell.frame_bytes_max // 4),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(shell.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(shell.keepalive_timeout_seconds * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ]


def _bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind the port and return the address with the port that was taken. Raises `PortTaken` or `ConfigError`."""
    host, _ = split_address(listen)
    try:
        return f"{host}:{server.add_insecure_port(listen)}"
    except RuntimeError as error:
        raise _why_not_bound(listen) from error


def _why_not_bound(listen: str) -> TrothError:
    """gRPC does not say why; a socket does."""
    host, port = split_address(listen)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return ConfigError(f"{listen} cannot be bound: {error.strerror}", hint="Correct the setting 'listen'.")
    return PortTaken(Reason.PORT_TAKEN, f"{listen} is in use by another process")
