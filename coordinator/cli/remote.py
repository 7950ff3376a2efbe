"""The way from a command to the coordinator. What a call needs (`calling`, gRPC) is imported with the first: the help of a command
needs none of it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coordinator.cli.failure import REFUSED, Failure
from troth.v1 import common_pb2

if TYPE_CHECKING:
    from coordinator.cli.calling import Remote


@contextmanager
def connected(coordinator: str | None, timeout: float) -> Iterator[Remote]:
    """A channel for the time of a command."""
    from coordinator.cli.calling import opened

    with opened(coordinator, timeout) as remote:
        yield remote


def refused(cause: common_pb2.Cause) -> Failure:
    """A refusal that came in a response."""
    return Failure(REFUSED, cause.reason, cause.message)


def who_am_i() -> str:
    """Who is recorded when nobody is named."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's arbitrary uid has no line in /etc/passwd
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
