"""The way back, with processes: a coordinator's directory is a copy from before, and what it had decided since is proven again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from bank_cluster import COORDINATOR, SETTINGS, BankCluster
from processes import ROOT

from participant_sdk.client import Client, call
from troth.errors import Aborted
from troth.v1 import admin_pb2, admin_pb2_grpc, common_pb2

PATIENCE_SECONDS = 60.0
BEFORE_THE_DECISION = "participant:on-receive:decisions=kill"


def moved(bank: str, transfer: str, amount: int) -> Any:
    return call(bank, "move", transfer=transfer, account="a00", amount=amount)


async def troth(*arguments: str) -> str:
    """What the command line says."""
    command = [sys.executable, "-m", "coordinator.cli", *arguments]
    running = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await running.communicate()
    return out.decode()


async def until(address: str, method: str, request: Any, holds: Callable[[Any], bool]) -> None:
    """Ask an operator's question until the answer is as it must be."""
    async with asyncio.timeout(PATIENCE_SECONDS), grpc.aio.insecure_channel(address) as channel:
        ask = getattr(admin_pb2_grpc.AdminServiceStub(channel), method)
        while not holds(await ask(request, wait_for_ready=True)):  # noqa: ASYNC110 - it is another process's state
            await asyncio.sleep(0.1)


async def run(client: Client, *calls: Any) -> Any:
    """Run it as soon as everybody is there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await client.run(*calls, timeout=30.0)
            except Aborted:
                await asyncio.sleep(0.2)


PATIENT = {**SETTINGS, "TROTH_HEARING_SECONDS": "60"}
"""However busy the machine is, a start hears whoever runs before its life begins: the first that refutes it ends the hearing."""


async def test_a_decision_that_the_copy_lacks_is_proven_by_whoever_has_heard_it(tmp_path: Path) -> None:
    async with BankCluster(tmp_path, banks=("north", "south"), settings=PATIENT) as cluster:
        north, south, coordinator = cluster.banks["north"], cluster.banks["south"], cluster.coordinator
        async with Client(cluster.clients_address) as client:
            await run(client, moved("north", "t1", -5), moved("south", "t1", 5))
        await coordinator.stop()
        right, copy = tmp_path / COORDINATOR, tmp_path / "copy"
        shutil.copytree(right, copy)
        await coordinator.start()
        at = coordinator.address
        # No decision is on its way, for the next one ends south.
        await until(at, "ListTransactions", admin_pb2.ListTransactionsRequest(), lambda listed: not listed.total)
        await south.stop()
        await south.start(BEFORE_THE_DECISION)
        async with Client(cluster.clients_address) as client:
            for bank in ("north", "south"):  # both are there: an abort would be a decision too
                await run(client, call(bank, "look", account="a00"))
            done = await run(client, moved("north", "t2", -7), moved("south", "t2", 7))
        await south.ended()
        coordinator.signal(signal.SIGKILL)
        await coordinator.ended()
        shutil.rmtree(right)
        shutil.copytree(copy, right)
        assert await coordinator.start()
        await until(
            at, "ListParticipants", admin_pb2.ListParticipantsRequest(),
            lambda listed: any("its log never began" in one.loss for one in listed.participants),
        )  # fmt: skip
        accepted = await troth("participants", "accept-loss", "--why", "rehearsal", "--yes", "--coordinator", at)
        assert "Accepted." in accepted, accepted
        await south.start()
        explain = admin_pb2.ExplainRequest(transaction_id=done.transaction_id)
        await until(at, "Explain", explain, lambda said: said.summary.outcome == common_pb2.OUTCOME_COMMITTED)
        async with Client(cluster.clients_address) as client:
            seen = await run(client, call("south", "look", account="a00"))
            assert seen.results == {"south": [1012]}, "the commit that only its peer knew of"
            await run(client, moved("north", "t3", -1), moved("south", "t3", 1))
        await cluster.stop()
        assert not north.running
