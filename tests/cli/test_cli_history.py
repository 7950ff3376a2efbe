"""`troth txn list` and `explain` of what is over, also after the coordinator was restarted."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.config import load
from coordinator.server import make_daemon
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2


async def test_what_is_over_is_found_after_a_restart_by_outcome_and_time(tmp_path: Path, troth: Any) -> None:
    config = load(environment={}, flags={"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}).config
    daemon = make_daemon(config)
    await daemon.start()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        for end in (stub.Commit, stub.Abort):
            begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000))
            message = client_pb2.CommitRequest if end is stub.Commit else client_pb2.AbortRequest
            await end(message(transaction_id=begun.transaction_id))
    await daemon.stop()
    daemon = make_daemon(config)  # an abort leaves no record in the log: only the history knows of it now
    await daemon.start()
    at = ("--coordinator", daemon.address)
    try:
        found = (await troth("txn", "list", "--since", "1h", "--json", *at)).json()
        assert ([row["state"] for row in found["transactions"]], found["total"]) == (["COMMITTED", "ABORTED"], 2)
        newest = await troth("txn", "list", "--finished", "--newest", "--csv", *at)
        rows = list(csv.DictReader(io.StringIO(newest.out)))
        assert [(row["state"], row["cause"].partition(":")[0]) for row in rows] == [("ABORTED", "CLIENT_ABORT"), ("COMMITTED", "")]
        aborted = found["transactions"][1]["transaction_id"]
        explained = await troth("txn", "explain", aborted, *at)
        assert "Finished: ABORTED. Cause: CLIENT_ABORT" in explained.out and "it is over" in explained.out
        shown = (await troth("txn", "show", aborted, "--json", *at)).json()
        assert [step["state"] for step in shown["summary"]["timeline"]["steps"]] == ["ACTIVE", "ABORTED"]
        for narrow in (("--outcome", "committed"), ("--since", "2099-01-01"), ("--slow", "1h", "--finished")):
            kept = (await troth("txn", "list", "--json", *narrow, *at)).json()["transactions"]
            assert [row["state"] for row in kept] == (["COMMITTED"] if "committed" in narrow else [])
    finally:
        await daemon.stop()


async def test_from_a_trace_to_its_transaction_while_it_is_open_and_when_it_is_over(tmp_path: Path, troth: Any) -> None:
    daemon = make_daemon(load(environment={}, flags={"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1")}).config)
    await daemon.start()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def found(wanted: str) -> list[tuple[str, str, str]]:
        listed = (await troth("txn", "list", "--trace", wanted, "--json", "--coordinator", daemon.address)).json()
        return [(row["transaction_id"], row["state"], row["trace_id"]) for row in listed["transactions"]]

    try:
        async with grpc.aio.insecure_channel(daemon.address) as channel:
            stub = client_pb2_grpc.TransactionServiceStub(channel)
            traced = common_pb2.TraceContext(traceparent=f"00-{trace}-00f067aa0ba902b7-00")
            begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000, trace=traced))
            other = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000))
            await stub.Abort(client_pb2.AbortRequest(transaction_id=other.transaction_id))
            assert await found(trace.upper()) == [(begun.transaction_id, "ACTIVE", trace)]
            await stub.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id))
            assert await found(trace) == [(begun.transaction_id, "COMMITTED", trace)]
            assert await found("0" * 32) == []
            wrong = await troth("txn", "list", "--trace", trace[1:], "--coordinator", daemon.address)
            assert wrong.code != 0 and "32 hexadecimal digits" in wrong.err
    finally:
        await daemon.stop()


@pytest.mark.parametrize(
    "wrong", [("--state", "COMMITTED"), ("--outcome", "ACTIVE"), ("--since", "soon"), ("--slow", "5"), ("--csv", "--json")]
)
async def test_what_makes_no_sense_is_a_mistake(troth: Any, wrong: tuple[str, ...]) -> None:
    assert (await troth("txn", "list", *wrong)).code == 2
