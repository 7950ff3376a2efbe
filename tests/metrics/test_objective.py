"""What the service-level objective counts: the one rule, that all refusals come to it, and the alerts that follow from it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from coordinator.config import load
from coordinator.metrics.objective import CALLERS, MET, MISSED
from coordinator.metrics.outcomes import CALLER, SERVICE, Outcomes
from coordinator.server import Daemon, make_daemon
from participant_sdk import LogResource, Participant
from participant_sdk.client import Client, call
from tests.coordinator_shell.shell_harness import eventually
from tests.given_back import no_task_and_no_timer_is_left as no_task_and_no_timer_is_left
from troth.errors import Aborted, Reason
from troth.v1 import admin_pb2, admin_pb2_grpc, client_pb2, client_pb2_grpc, common_pb2

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs" / "monitoring"

COMMITTED, ABORTED, MIXED = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED, common_pb2.OUTCOME_MIXED


def over(outcome: int, reason: str = "") -> Any:
    """As much of a transaction that is over as is looked at."""
    cause = SimpleNamespace(reason=reason) if reason else None
    return SimpleNamespace(outcome=outcome, cause=cause, trace=None, moments=SimpleNamespace(steps=()))


@pytest.mark.parametrize(
    ("what", "counted"),
    [
        (over(COMMITTED), MET),
        (over(ABORTED, "REFUSED"), MET),
        (over(ABORTED, "CONFLICT"), MET),
        (over(ABORTED, "PARTICIPANT_AWAY"), MISSED),
        (over(ABORTED, "TIMEOUT"), MISSED),
        (over(ABORTED, "what somebody made up"), MISSED),
        (over(ABORTED), MISSED),
        (over(MIXED, "CLIENT_ABORT"), MISSED),
    ],
)
def test_what_is_over_is_counted_by_whose_fault_it_was(what: Any, counted: str) -> None:
    outcomes = Outcomes()
    outcomes.hear(what)
    assert outcomes.objective == {MET: counted == MET, MISSED: counted == MISSED}


OURS = (Reason.PARTICIPANT_AWAY, Reason.OVERLOADED, Reason.DRAINING, Reason.LOG_WENT_BACK, Reason.LOG_FAILED, Reason.WRONG_NODE)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_what_is_refused_is_counted_when_it_is_our_fault_alone(reason: Reason) -> None:
    outcomes = Outcomes()
    outcomes.hear_refused(reason, True)
    assert outcomes.objective == {MET: 0, MISSED: 0}
    outcomes.hear_refused(reason, False)
    assert outcomes.objective == {MET: 0, MISSED: reason not in CALLERS}
    assert outcomes.objective[MISSED] or reason not in OURS


# ---- a daemon


ONE_AT_A_TIME = ("unary_calls_max", "watches_max", "connection_watches_max", "transaction_watches_max")


def note(_: Any) -> str:
    """An operation that does nothing."""
    return "done"


@pytest.fixture
async def start(tmp_path: Path) -> Any:
    daemons: list[Daemon] = []

    async def started(**flags: str) -> tuple[Daemon, Outcomes]:
        flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "metrics_listen": "127.0.0.1:0", **flags}
        daemon = make_daemon(load(environment={}, flags=flags).config)
        daemons.append(daemon)
        await daemon.start()
        assert daemon.observing.exporter is not None
        return daemon, daemon.observing.exporter.outcomes

    yield started
    for daemon in daemons:
        await daemon.stop()


async def test_while_a_participant_is_away_the_objective_is_missed(start: Any, tmp_path: Path) -> None:
    daemon, outcomes = await start()
    bank = Participant("bank", coordinator=daemon.address, resource=LogResource(), data_directory=tmp_path / "bank")
    bank.operation(note)
    async with Client(daemon.address) as client:
        async with bank:
            await bank.wait_connected()
            await client.run(call("bank", "note"))
        await eventually(lambda: not daemon.participants.open_streams())
        assert outcomes.objective == {MET: 1, MISSED: 0}
        for service, reason in (("bank", "PARTICIPANT_AWAY"), ("nobody", "UNKNOWN_PARTICIPANT")):
            with pytest.raises(Aborted, match=reason):
                await client.run(call(service, "note"))
    attempts = outcomes.refused["PARTICIPANT_AWAY", SERVICE]
    assert attempts and outcomes.refused == {("PARTICIPANT_AWAY", SERVICE): attempts, ("UNKNOWN_PARTICIPANT", CALLER): 1}
    assert outcomes.objective == {MET: 1, MISSED: attempts}


async def test_calls_and_streams_that_do_not_come_to_the_core_are_counted_too(start: Any) -> None:
    daemon, outcomes = await start(sessions_max="1", **dict.fromkeys(ONE_AT_A_TIME, "1"))
    begin = client_pb2.BeginRequest(timeout_ms=30_000)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        stub = client_pb2_grpc.TransactionServiceStub(channel)
        watching = stub.Watch(client_pb2.WatchRequest(transaction_id=(await stub.Begin(begin)).transaction_id))
        await watching.read()
        for refused in (stub.Begin(begin), stub.Run(client_pb2.RunRequest(timeout_ms=1)), stub.Get(client_pb2.GetRequest())):
            with pytest.raises(grpc.aio.AioRpcError):
                await refused
        watching.cancel()
        assert outcomes.refused == {("OVERLOADED", SERVICE): 2}, "a question is nothing that could have begun"
        hello = client_pb2.ClientHello(protocol=common_pb2.ProtocolRange(lowest=1, highest=1))
        streams = [stub.Connect() for _ in range(2)]
        for stream in streams:
            await stream.write(client_pb2.ConnectRequest(hello=hello))
            await stream.read()
        assert outcomes.refused == {("OVERLOADED", SERVICE): 3}
        streams[0].cancel()


async def test_what_is_refused_while_a_daemon_drains_is_counted(start: Any) -> None:
    daemon, outcomes = await start()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        await admin_pb2_grpc.AdminServiceStub(channel).Drain(admin_pb2.DrainRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="DRAINING"):
            await client_pb2_grpc.TransactionServiceStub(channel).Begin(client_pb2.BeginRequest(timeout_ms=30_000))
    assert outcomes.objective == {MET: 0, MISSED: 1}


# ---- the alerts


def test_the_rule_stands_in_one_place() -> None:
    """No expression that we ship says again which reasons count."""
    rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[A-Z_]{4,}\b", "\n".join(re.findall(r"expr: (.+)", rules))))
    assert named == set()
    recorded = set(re.findall(r'record: "([\w:]+)"', rules))
    used = set(re.findall(r"\btroth:[\w:]+", rules + (MONITORING / "grafana.json").read_text(encoding="utf-8")))
    assert used == recorded


@pytest.mark.skipif(not os.environ.get("TEST_PROMTOOL_BIN"), reason="promtool is not there")
def test_the_alerts_fire_when_they_should() -> None:
    promtool = Path(os.environ["TEST_PROMTOOL_BIN"]) / "promtool"
    done = subprocess.run(
        [promtool, "test", "rules", Path(__file__).with_name("budget.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
