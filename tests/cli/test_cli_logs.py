"""What an operator finds in the daemon's log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from coordinator import descriptors
from coordinator.cli.serve import _is_about_us
from coordinator.config import ShellSettings
from coordinator.core import effects
from coordinator.server import Daemon
from coordinator.services import streams
from tests.cli.test_cli_remote import begin, channel, connect_participant
from troth.v1 import common_pb2, participant_pb2, record_pb2

__all__ = ["channel"]


async def test_a_contradiction_is_logged_with_the_decision_who_and_why(daemon: Daemon, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        report = record_pb2.Heuristic(
            transaction_id="c1.1.0badcafe.1.1", participant="south", branch_outcome=common_pb2.OUTCOME_ABORTED, commit_decided=True,
            why="told by phone",
        )  # fmt: skip
        daemon._perform(effects.Contradicted(report, common_pb2.OUTCOME_MIXED))
    (line,) = caplog.records
    assert line.levelname == "ERROR"
    for told in ("outcome=MIXED", "decided=COMMIT", "branch=ABORTED", "participant=south", "why='told by phone'"):
        assert told in line.getMessage()


async def test_an_operators_order_is_logged_with_who_and_why(troth: Any, daemon: Daemon, channel: Any, caplog: Any) -> None:
    transaction_id = await begin(channel)
    call = connect_participant(channel, "payments")
    at = ("--coordinator", daemon.address)
    with caplog.at_level("INFO"):
        await call.read()
        await troth("txn", "resolve", transaction_id, "abort", "--why", "test", "--who", "ann", "--yes", *at)
        await troth("txn", "resolve", transaction_id, "commit", "--participant", "payments", "--why", "x", "--yes", *at)
        call.cancel()
        await daemon.stop()
    lines = [line.getMessage() for line in caplog.records]
    (forced,) = (line for line in lines if line.startswith("forced by an operator"))  # a preview is no order
    for told in ("who=ann", "why=test", "action=ABORT", f"transaction_id={transaction_id}"):
        assert told in forced
    for what in ("participant connected", "participant disconnected"):
        assert len([line for line in lines if line.startswith(what)]) == 1


async def test_a_shortage_of_descriptors_is_logged_and_counted(daemon: Daemon, caplog: Any) -> None:
    answers = iter([True, False, False, True, True])

    async def sleep(_: float) -> None:
        if next(left, None) is None:
            raise asyncio.CancelledError

    left = iter(range(4))
    with caplog.at_level("INFO"), pytest.raises(asyncio.CancelledError):
        await descriptors.watch(daemon._context.common, lambda: next(answers), sleep)
    events = [line.getMessage().partition(":")[0] for line in caplog.records]
    assert events == ["out of file descriptors"] * 2 + ["there are file descriptors again"]
    assert daemon.counters()["descriptor_shortages"] == 2


def test_a_file_can_be_opened_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert descriptors.one_is_free()
    monkeypatch.setattr(descriptors.os, "open", _fail)
    assert not descriptors.one_is_free()


def _fail(*_: Any) -> int:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(("text", "told"), [('Failed "execute_batch": (<...>,)', False), ("Failed grpc_call_start_batch: 8", True)])
def test_a_status_that_did_not_reach_a_peer_is_not_told_and_wrong_use_is(text: str, told: bool) -> None:
    error = type("ExecuteBatchError", (Exception,), {})(text)
    record = logging.LogRecord("grpc", logging.ERROR, "server.pyx", 1, "raised in core", (), (type(error), error, None))
    assert _is_about_us(record) is told


async def test_a_peer_that_leaves_before_its_goodbye_is_no_error_of_ours() -> None:
    async def write(_: Any) -> None:
        raise RuntimeError("the transport is gone")

    await streams.write_farewell(write, participant_pb2.SessionResponse(), ShellSettings())
