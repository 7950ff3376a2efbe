"""The port of a process: one gRPC server with all services, health, and reflection."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it comes without stubs
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # it comes without stubs

from coordinator.cell.routing import AdminService, ParticipantService, Routes, TransactionService
from coordinator.config import Config
from coordinator.services.crowd import OPERATORS_CALLS_MAX, PUBLIC_CALLS_MAX
from coordinator.services.guard import Door, Guard
from coordinator.shell_settings import ShellSettings
from troth.address import split_address
from troth.errors import ConfigError, Reason, TrothError
from troth.identity.peer import OPERATOR_AT_THE_SOCKET
from troth.identity.tls import Tls, server_credentials
from troth.link import keepalive_options
from troth.logs import get_logger
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, participant_pb2, participant_pb2_grpc

log = get_logger("troth.server")

LIVENESS = "troth.liveness"
"""Health name: the process works. Stays SERVING in a drain, so that nobody kills the process for draining."""
READINESS = "troth.readiness"
"""Health name: new work is welcome. The empty name means the same."""
SHARD_HEALTH = "troth.shard."
"""Health names of the shards of a cell begin so, and end with the shard's name: it is served here, and takes new work."""

PENDING_CALLS_MAX = 5_000
"""Calls that gRPC may hold until our loop takes them; `calls_max` is looked at then. Each takes 14 KiB, also one that its caller
has taken back: with a million of them a flood of resets took gigabytes. One connection has `connection_calls_max` at most."""
BEING_ANSWERED_MAX = 1_000
"""Calls beyond all of our limits that gRPC may hold, since one counts there until its answer is sent. What is past them it refuses
without a word: only who reads no answers gets there."""
FILES_KEPT_FREE = 256
"""Open files that no connection is let have: the log, its cleaner, the audit log, the history and gRPC itself need some."""
MIN_PING_INTERVAL_MS = 10_000
"""Peers may ping as often as this; clients do so every 30 s, and gRPC's own default of 300 s would cut them off."""


class PortTaken(TrothError):
    """The address cannot be bound."""


class Port:
    """One gRPC server."""

    def __init__(self, config: Config, routes: Routes) -> None:
        self._config = config
        self._routes = routes
        self._health = health.aio.HealthServicer()
        self.server: grpc.aio.Server | None = None
        self.address = ""
        self.token_address = ""
        """Where nobody is asked for a certificate; empty when that is nowhere."""
        self._admin: grpc.aio.Server | None = None
        self.admin_address = ""
        """Where the admin service is; empty when that is at `address`."""

    def open(self) -> None:
        """Bind the addresses, and know the ports that were taken. Raises `PortTaken` or `ConfigError`."""
        shell = self._config.shell
        elsewhere = shell.admin_listen
        self.server = self._make(Door(administration=elsewhere), reflects=shell.reflection and not elsewhere)
        self.address = _bind(self.server, shell.listen, _credentials(shell.tls))
        if shell.token_listen and shell.tls is not None:
            asks_nobody = replace(shell.tls, authorities="")
            self.token_address = _bind(self.server, shell.token_listen, _credentials(asks_nobody))
        if elsewhere:
            socket_file = elsewhere.removeprefix("unix:") if elsewhere.startswith("unix:") else ""
            door = Door(OPERATOR_AT_THE_SOCKET) if socket_file else Door()
            self._admin = self._make(door, reflects=shell.reflection)
            bound = _bind_file(self._admin, socket_file) if socket_file else _bind(self._admin, elsewhere, _credentials(shell.tls))
            self.admin_address = bound

    def _make(self, door: Door, *, reflects: bool) -> grpc.aio.Server:
        """A server with all services; what may be called by whom is the guard's affair."""
        routes, shell = self._routes, self._config.shell
        server = grpc.aio.server(
            interceptors=[Guard(routes.common, door)], options=server_options(self._config),
            maximum_concurrent_rpcs=shell.calls_max + OPERATORS_CALLS_MAX + PUBLIC_CALLS_MAX + BEING_ANSWERED_MAX,
        )  # fmt: skip
        client_pb2_grpc.add_TransactionServiceServicer_to_server(TransactionService(routes), server)
        participant_pb2_grpc.add_ParticipantServiceServicer_to_server(ParticipantService(routes), server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(routes), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if reflects:
            modules = (client_pb2, participant_pb2, admin_pb2)
            names = [one.full_name for module in modules for one in module.DESCRIPTOR.services_by_name.values()]
            reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server

    async def start(self) -> None:
        """Take calls."""
        assert self.server is not None
        await self.server.start()
        if self._admin is not None:
            await self._admin.start()
        if self._config.shell.insecure:
            log.warning("insecure: whoever reaches the port can do anything", address=self.address)
        await self.show(True, (LIVENESS,))

    async def show(self, serving: bool, names: Collection[str] = (READINESS, "")) -> None:
        """Tell who watches the health."""
        status = health_pb2.HealthCheckResponse
        if READINESS in names:
            self._routes.common.ready = serving
        for name in names:
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def close(self) -> None:
        """Take no calls any more, and end those that are open."""
        for server in (self.server, self._admin):
            if server is not None:
                await server.stop(grace=None)


def server_options(config: Config) -> list[tuple[str, int]]:
    """The options of gRPC."""
    shell = config.shell
    return [
        # Two daemons could otherwise bind the same port, silently.
        ("grpc.so_reuseport", 0),
        # A little more than the limit: what is a little too large is refused by us, with a reason.
        ("grpc.max_receive_message_length", shell.frame_bytes_max + shell.frame_bytes_max // 4),
        ("grpc.max_send_message_length", -1),
        *keepalive_options(shell.keepalive_seconds, shell.keepalive_timeout_seconds),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        # Whoever connects and then says nothing is sent away: before its handshakes are done, and after them without a call.
        ("grpc.server_handshake_timeout_ms", int(shell.hello_seconds * 1000)),
        ("grpc.http2.settings_timeout", int(shell.hello_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(shell.connection_idle_seconds * 1000)),
        ("grpc.max_allowed_incoming_connections", connections_max(shell)),
        ("grpc.max_concurrent_streams", shell.connection_calls_max),
        # Calls that arrive in a burst are all handed to us, who have a limit and say so. From 1,000 on gRPC would drop some, from
        # 3,000 all, with a bare CANCELLED that tells nobody whether to try again.
        ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ]


def connections_max(shell: ShellSettings) -> int:
    """The connections that each address takes. Those of all addresses together must not take the files that the log needs."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return shell.connections_max
    addresses = 1 + bool(shell.token_listen) + bool(shell.admin_listen)
    return min(shell.connections_max, max((most - FILES_KEPT_FREE) // addresses, most // (2 * addresses), 1))


def _credentials(tls: Tls | None) -> grpc.ServerCredentials | None:
    """What the files hold; `None` for none. Raises `ConfigError`."""
    return None if tls is None else server_credentials(tls, _tell_of_files)


def _tell_of_files(error: ConfigError | None) -> None:
    if error is None:
        log.info("new files of TLS are in use")
    else:
        log.error("new files of TLS cannot be used; the last good ones stay", why=error.message, hint=error.hint)


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    """Bind the port and return the address with the port that was taken. Raises `PortTaken` or `ConfigError`."""
    host, _ = split_address(listen)
    try:
        if credentials is not None:
            return f"{host}:{server.add_secure_port(listen, credentials)}"
        return f"{host}:{server.add_insecure_port(listen)}"
    except RuntimeError as error:
        raise _why_not_bound(listen) from error


def _bind_file(server: grpc.aio.Server, path: str) -> str:
    """Bind a unix socket that its owner alone may open. Raises `ConfigError`. One that a process has left behind is taken away: the
    data directory is ours by now, so nobody serves there."""
    file = Path(path)
    before = os.umask(0o177)
    try:
        if file.is_socket():
            file.unlink()
        server.add_insecure_port(f"unix:{path}")
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"unix:{path} cannot be bound", hint="Name a file in a directory that is there and yours.") from error
    finally:
        os.umask(before)
    return f"unix:{path}"


def _why_not_bound(listen: str) -> TrothError:
    """gRPC does not say why; a socket does."""
    host, port = split_address(listen)
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before are not in the way
            probe.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return ConfigError(f"{listen} cannot be bound: {error.strerror}", hint="Correct the setting 'listen'.")
    return PortTaken(Reason.PORT_TAKEN, f"{listen} is in use by another process")
