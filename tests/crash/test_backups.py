"""Backups, rehearsed with processes: taken under load, put back after the files are lost, and everybody agrees again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import signal
from pathlib import Path
from typing import Any

from bank_cluster import BankCluster
from processes import Process
from test_way_back import PATIENCE_SECONDS, PATIENT, moved, run, until

from coordinator.cli.main import run as run_command
from participant_sdk.client import Client, call
from troth.v1 import admin_pb2, common_pb2

LISTED = admin_pb2.ListParticipantsRequest()


async def troth(*arguments: str) -> str:
    """What the command line says. It runs here: no process of the cluster is this one."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        await asyncio.to_thread(run_command, arguments)
    return out.getvalue()


async def transfers(client: Client, done: list[str], enough: asyncio.Event) -> None:
    """Move one from north to south, again and again."""
    while not enough.is_set():
        one = await run(client, moved("north", "load", -1), moved("south", "load", 1))
        done.append(one.transaction_id)


async def backed_up(directory: Path, to: Path, kind: str) -> dict[str, Any]:
    """A backup while the process works; its entry of the kind. Where that gets on between all looks of a copy there is none."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "files" not in (made := json.loads(await troth("backup", str(directory), "--to", str(to), "--json"))):
            assert "changed 20 times" in made["error"]["message"], made
    found: dict[str, Any] = next(one for one in made["files"] if one["role"] == kind)
    return found


async def lose(process: Process) -> None:
    """Kill it, and have its disk gone."""
    process.signal(signal.SIGKILL)
    await process.ended()
    shutil.rmtree(process.directory)


async def put_back_the_coordinator(cluster: BankCluster, backup: Path, position: int, last: str) -> None:
    """The restore says what the backup lacks; the start finds it out; and peers prove it."""
    await lose(cluster.coordinator)
    peer = cluster.banks["south"].directory / "bank.db"
    restored = await troth("restore", str(backup), "--peer", str(peer), "--yes")
    assert f"will be at position {position}" in restored, restored
    assert f"the backup does not know {last}: committed in south; that proves COMMIT" in restored, restored
    assert await cluster.coordinator.start()
    at = cluster.coordinator.address
    await until(at, "ListParticipants", LISTED, lambda listed: any(one.loss for one in listed.participants))
    accepted = await troth("participants", "accept-loss", "--why", "rehearsal", "--yes", "--coordinator", at)
    assert "Accepted." in accepted, accepted


async def put_back_a_bank(cluster: BankCluster, backup: Path, log_id: str) -> None:
    """It is noticed at its Hello; the command that the restore has printed lets it in."""
    south, at = cluster.banks["south"], cluster.coordinator.address
    await lose(south)
    replace = f"troth participants replace south --log-id {log_id}"
    restored = await troth("restore", str(backup), "--yes")
    assert replace in restored, restored
    await south.spawn()
    await until(
        at, "ListParticipants", LISTED, lambda listed: any(one.loss for one in listed.participants if one.participant == "south")
    )
    south.kill()
    await south.ended()
    replaced = await troth(*replace.split()[1:], "--why", "rehearsal", "--yes", "--coordinator", at)
    assert "will be accepted" in replaced, replaced
    await south.start()


async def test_backups_under_load_bring_back_a_coordinator_and_then_a_participant(tmp_path: Path) -> None:
    async with BankCluster(tmp_path, banks=("north", "south"), settings=PATIENT) as cluster:
        coordinator, south = cluster.coordinator, cluster.banks["south"]
        done: list[str] = []
        enough = asyncio.Event()
        async with Client(cluster.clients_address) as client:
            await run(client, moved("north", "t1", -1), moved("south", "t1", 1))
            async with asyncio.TaskGroup() as group:
                group.create_task(transfers(client, done, enough))
                kept = await backed_up(coordinator.directory, tmp_path / "kept", "coordinator")
                bank = await backed_up(south.directory, tmp_path / "bank", "resource")
                enough.set()
            last = await run(client, moved("north", "t2", -1), moved("south", "t2", 1))
        in_use = await troth("restore", str(tmp_path / "kept"), "--yes")
        assert "LOG_LOCKED" in in_use, in_use
        await put_back_the_coordinator(cluster, tmp_path / "kept", kept["last_seq"], last.transaction_id)
        async with Client(cluster.clients_address) as client:
            lost = await run(client, moved("north", "t3", -1), moved("south", "t3", 1))
            seen = await run(client, call("north", "look", account="a00"), call("south", "look", account="a00"))
        assert seen.results == {"north": [1000 - 3 - len(done)], "south": [1000 + 3 + len(done)]}
        await put_back_a_bank(cluster, tmp_path / "bank", bank["log_id"])
        explain = admin_pb2.ExplainRequest(transaction_id=lost.transaction_id)
        await until(coordinator.address, "Explain", explain, lambda said: said.summary.outcome == common_pb2.OUTCOME_MIXED)
        await cluster.stop()
