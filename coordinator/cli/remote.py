"""Calls of the coordinator's services, with failures translated."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # it has stubs but no py.typed

from coordinator.cli.failure import REFUSED, UNREACHABLE, Failure
from coordinator.config import ShellSettings, split_address
from coordinator.directory import read_address
from coordinator.services.status import STATUS_METADATA_KEY
from troth.v1 import admin_pb2_grpc, client_pb2_grpc, common_pb2


@dataclass(frozen=True, slots=True)
class Remote:
    """An open channel to one coordinator."""

    address: str
    timeout: float
    admin: admin_pb2_grpc.AdminServiceStub
    transactions: client_pb2_grpc.TransactionServiceStub

    def call(self, method: Callable[..., Any], request: Any) -> Any:
        """One unary call; raises `Failure`, also for a refusal in the response."""
        with translated(self.address):
            response = method(request, timeout=self.timeout)
        if "refusal" in response.DESCRIPTOR.fields_by_name and response.HasField("refusal"):
            raise refused(response.refusal)
        return response


@contextmanager
def connected(coordinator: str | None, timeout: float) -> Iterator[Remote]:
    """A channel for the time of a command."""
    address = find_address(coordinator)
    split_address(address)
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        yield Remote(
            address, timeout, admin_pb2_grpc.AdminServiceStub(channel), client_pb2_grpc.TransactionServiceStub(channel)
        )


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


def failure_of_call(error: Any, address: str) -> Failure:
    """What a failed call means to the person."""
    info = error_info(error)
    if info is not None:
        message = str(error.details()).removeprefix(f"{info.reason}: ")
        return Failure(REFUSED, info.reason, message)
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Failure(
            UNREACHABLE, "COORDINATOR_AWAY", f"no coordinator answers at {address}",
            "Start it with `troth serve`, or name it with --coordinator HOST:PORT.",
        )  # fmt: skip
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


def refused(cause: common_pb2.Cause) -> Failure:
    """A refusal that came in a response."""
    return Failure(REFUSED, cause.reason, cause.message)


def who_am_i() -> str:
    """Who is recorded when nobody is named."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
