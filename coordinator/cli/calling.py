"""Calls of the coordinator's services, with failures translated. gRPC comes with it: commands get here by `remote.connected`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has stubs but no py.typed

from coordinator.cli.command import TLS_META
from coordinator.cli.failure import REFUSED, UNREACHABLE, Failure
from coordinator.cli.remote import refused
from coordinator.directory import read_address
from coordinator.services.status import STATUS_METADATA_KEY
from coordinator.shell_settings import ShellSettings
from troth import features
from troth.address import addresses_of, check_dialled, split_address
from troth.errors import Reason
from troth.identity.tls import Tls
from troth.link import DIRECT
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2_grpc

CONNECT_SECONDS = 2.0
"""How long one of several nodes may take to be found away."""
PAGE_ROWS = 1_000
"""Rows of one page of a listing."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An open channel to one coordinator."""

    address: str
    timeout: float
    admin: admin_pb2_grpc.AdminServiceStub
    transactions: client_pb2_grpc.TransactionServiceStub

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """One unary call; raises `Failure`, also for a refusal in the response."""
        response = self.ask(method, request)
        if "refusal" in response.DESCRIPTOR.fields_by_name and response.HasField("refusal"):
            raise refused(response.refusal)
        return response

    def ask(self, method: Callable[..., Any], request: Any) -> Any:
        """The same, for whom a refusal is an answer."""
        if features.needed(request):
            self._check_used(request)
        with translated(self.address):
            return method(request, timeout=self.timeout)

    def _check_used(self, request: Any) -> None:
        """Ask first what the coordinator has: one of an earlier version would carry out another order. Raises `Failure`."""
        told = self.call(self.admin.GetStatus, admin_pb2.GetStatusRequest()).features
        lacking = features.lacking(request, (one.name for one in told if not one.held_back))
        if lacking:
            text = f"the coordinator is of an earlier version, or holds this back: {lacking}"
            hint = "Nothing was done. Ask again once it is upgraded, and uses it: `troth status`."
            raise Failure(REFUSED, Reason.VERSION_MISMATCH.name, text, hint)

    def pages(self, method: Callable[..., Any], request: Any, rows: str, limit: int) -> Any:
        """Ask for pages until there are `limit` rows, or all for 0; returns them as one response. `rows` is the field's name."""
        response = None
        while True:
            left = limit - len(getattr(response, rows)) if limit and response is not None else limit
            request.limit = min(left, PAGE_ROWS) if left else PAGE_ROWS
            page = self.call(method, request)
            if response is None:
                response = page
            else:
                getattr(response, rows).extend(getattr(page, rows))
                response.next_page_token = page.next_page_token
            if not page.next_page_token or (limit and len(getattr(response, rows)) >= limit):
                return response
            request.page_token = page.next_page_token

    def details(self, participant: str, detail: admin_pb2.ParticipantDetail.ValueType) -> list[str]:
        """All of what a participant has many of, page by page. Raises `Failure` when nobody has that name."""
        request = admin_pb2.ListParticipantDetailsRequest(participant=participant, detail=detail)
        return [row.name for row in self.pages(self.admin.ListParticipantDetails, request, "rows", 0).rows]


@contextmanager
def opened(coordinator: str | None, timeout: float) -> Iterator[Remote]:
    """A channel for the time of a command."""
    named = find_address(coordinator)
    address = named if named.startswith("unix:/") else _listening(check_dialled(named))
    with _channel(address, timeout) as channel:
        yield Remote(address, timeout, admin_pb2_grpc.AdminServiceStub(channel), client_pb2_grpc.TransactionServiceStub(channel))


def _channel(address: str, timeout: float) -> grpc.Channel:
    """With TLS where the command or the environment names files of it. Raises `ConfigError` for such that cannot be used."""
    context = click.get_current_context(silent=True)
    given = context.meta.get(TLS_META, {}) if context is not None else {}
    connecting = ("grpc.min_reconnect_backoff_ms", int(timeout * 1000))  # how long one attempt may take; 20 s of itself
    options = [DIRECT, ("grpc.enable_retries", 0), connecting]
    if not any(given.values()):
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, Tls(**given).channel_credentials(), options=options)


def _listening(addresses: str) -> str:
    """Of the addresses of several nodes the first that somebody listens at, or the last: then the call says that nobody does."""
    *others, last = addresses_of(addresses)
    for address in others:
        host, port = split_address(address)
        try:
            socket.create_connection((host.strip("[]"), port), CONNECT_SECONDS).close()
        except OSError:
            continue
        return address
    return last


def find_address(coordinator: str | None) -> str:
    """Where the coordinator is: the flag, the environment, the data directory, the default."""
    named = coordinator or os.environ.get("TROTH_COORDINATOR", "")
    if named:
        return named
    directory = os.environ.get("TROTH_DATA_DIRECTORY", "") or ShellSettings().data_directory
    return read_address(Path(directory)) or ShellSettings().listen


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn gRPC's errors into failures."""
    try:
        yield
    except grpc.RpcError as error:
        raise failure_of_call(error, address) from error


_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What a coordinator that is down, or is going down, leaves us with. We ourselves cancel nothing."""


_SIGNS_OF_TLS = ("handshake", "CERTIFICATE", "SSL", "Socket closed", "reset by peer", "End of TCP stream")
"""In the words of gRPC: what a peer leaves us with that has TLS where we have none, or none where we have it, or takes no
certificate of ours. A coordinator that was killed says the same, now and then."""
_ABOUT_TLS = "Name the right files: --tls-authorities, --tls-certificate and --tls-key; or try again, if it was just going down."


def failure_of_call(error: Any, address: str) -> Failure:
    """What a failed call means to the person."""
    info = error_info(error)
    if info is not None:
        message = str(error.details()).removeprefix(f"{info.reason}: ")
        return Failure(REFUSED, info.reason, message)
    if error.code() in _AWAY:
        if any(sign in str(error.details()) for sign in _SIGNS_OF_TLS):
            return Failure(UNREACHABLE, "COORDINATOR_AWAY", f"no TLS with {address}: {error.details()}", _ABOUT_TLS)
        return Failure(
            UNREACHABLE, "COORDINATOR_AWAY", f"no coordinator answers at {address}",
            "Start it with `troth serve`, or name it with --coordinator HOST:PORT.",
        )  # fmt: skip
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        text = f"the coordinator at {address}, or a node of its cell, is of an earlier version, and does not know this call"
        return Failure(REFUSED, Reason.VERSION_MISMATCH.name, text, "Upgrade every node first, or use the command of that version.")
    return Failure(REFUSED, error.code().name, str(error.details()))


def error_info(error: Any) -> Any:
    """The ErrorInfo of a failed call; `None` when it carries none."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            info = error_details_pb2.ErrorInfo()
            if any(detail.Unpack(info) for detail in status.details if detail.Is(info.DESCRIPTOR)):
                return info
    return None
