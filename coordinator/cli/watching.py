"""Watching one transaction over restarts of the coordinator."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from coordinator.cli import render
from coordinator.cli.calling import failure_of_call, opened
from coordinator.cli.failure import UNREACHABLE, Failure
from troth.v1 import client_pb2

UNKNOWN = "UNKNOWN"
"""The state of what nothing is known of."""
RETRY_SECONDS = 0.5


def follow(coordinator: str | None, timeout: float, transaction_id: str) -> Iterator[client_pb2.WatchResponse]:
    """Each state, until the last. A coordinator that went away is looked for again, also at a new address, until `timeout` has
    passed without an answer; what was told before is not told twice. Raises `Failure`."""
    told: client_pb2.WatchResponse | None = None
    lost_at: float | None = None
    while True:
        with opened(coordinator, timeout) as remote:
            try:
                for state in remote.transactions.Watch(client_pb2.WatchRequest(transaction_id=transaction_id)):
                    if lost_at is not None:
                        render.tell(f"troth: the coordinator answers again at {remote.address}")
                        lost_at = None
                    if state != told:
                        told = state
                        yield state
                return
            except grpc.RpcError as error:
                failure = failure_of_call(error, remote.address)
        lost_at = _wait_or_raise(failure, remote.address, timeout, lost_at, told is not None)


def _wait_or_raise(failure: Failure, address: str, timeout: float, lost_at: float | None, watched: bool) -> float:
    """Wait a little before the next attempt; returns since when there is no answer."""
    if failure.exit_code != UNREACHABLE or not watched:
        raise failure
    now = time.monotonic()
    if lost_at is None:
        render.tell(f"troth: the coordinator at {address} went away; waiting up to {timeout:g} s for it")
        lost_at = now
    if now - lost_at > timeout:
        raise failure
    time.sleep(RETRY_SECONDS)
    return lost_at
