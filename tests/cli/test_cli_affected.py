"""`troth participants affected`: hundreds of branches in doubt and of lost commits, each listed by its id at a real daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coordinator.attention import attention
from coordinator.config import load
from coordinator.inside import Inside
from coordinator.server import Daemon, make_daemon
from tests.cli.test_cli_offline import make_log
from troth.v1 import admin_pb2, admin_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc, record_pb2

MANY = 350
LOST = [f"c1.1.0badcafe.3.{number}" for number in range(1, MANY + 1)]
"""Commits that the log of `payments` does not have."""
FOREIGN = [f"c9.1.0badcafe.3.{number}" for number in range(1, MANY + 1)]
"""Of another coordinator: `payments` is in doubt about each."""
FORCED = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT


def _lacking(transaction_id: str) -> record_pb2.CoordinatorRecord:
    return record_pb2.CoordinatorRecord(heuristic=record_pb2.Heuristic(
        transaction_id=transaction_id, participant="payments", branch_outcome=common_pb2.OUTCOME_ABORTED, why="an older copy",
        commit_decided=True, lacking=True,
    ))  # fmt: skip


@pytest_asyncio.fixture
async def restored(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon whose log lists what `payments` lacks, and to which `payments` says what it is in doubt about."""
    started = record_pb2.EpochStarted(coordinator="c1", epoch=1, nonce="0badcafe", kept=True)
    bound = record_pb2.ParticipantBound(participant="payments", log_id="11" * 16, incarnation=1)
    records = [record_pb2.CoordinatorRecord(epoch_started=started), record_pb2.CoordinatorRecord(participant_bound=bound)]
    (tmp_path / "c1").mkdir()
    await make_log(tmp_path / "c1" / "coordinator.db", "coordinator", "c1", *records, *map(_lacking, LOST))
    flags = {"listen": "127.0.0.1:0", "data_directory": str(tmp_path / "c1"), "drain_seconds": 1.0, "hearing_seconds": 0}
    daemon = make_daemon(load(environment={}, flags=flags).config)
    await daemon.start()
    yield daemon
    await daemon.stop()


@pytest_asyncio.fixture
async def at(restored: Daemon) -> AsyncIterator[tuple[str, str]]:
    """The option that names the daemon, once it has heard of all that is in doubt. What it orders is done."""
    async with grpc.aio.insecure_channel(restored.address) as channel:
        stream = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
        hello = participant_pb2.Hello(participant="payments", log_id="11" * 16, incarnation=2)
        hello.operations.extend(map(_operation, range(MANY)))
        hello.protocol.lowest = hello.protocol.highest = 1
        await stream.write(participant_pb2.SessionRequest(hello=hello))
        assert (await stream.read()).HasField("welcome")
        state = participant_pb2.BRANCH_STATE_PREPARED
        reports = [participant_pb2.BranchReport(transaction_id=one, order=1, state=state) for one in FOREIGN]
        await stream.write(participant_pb2.SessionRequest(reports=reports, reports_complete=True))
        obeying = asyncio.create_task(_obey(stream))
        inside = Inside(restored._routes)
        async with asyncio.timeout(60):
            while (await _row(inside)).stranded_total < MANY:  # noqa: ASYNC110 - it is looked at from outside
                await asyncio.sleep(0.01)
        yield ("--coordinator", restored.address)
        obeying.cancel()
        stream.cancel()


def _operation(number: int) -> str:
    return f"operation-{number}"


async def _obey(stream: Any) -> None:
    while frame := await stream.read():
        done = [
            participant_pb2.Acknowledgement(transaction_id=one.transaction_id, kind=FORCED)
            for one in frame.forces
        ]
        if done:
            await stream.write(participant_pb2.SessionRequest(acknowledgements=done))


async def _row(inside: Inside) -> Any:
    (row,) = (await inside.look("ListParticipants", admin_pb2.ListParticipantsRequest())).participants
    return row


async def test_everything_is_listed_by_its_id_and_the_short_list_says_by_which_command(
    restored: Daemon, at: tuple[str, str], troth: Any
) -> None:
    found = (await troth("participants", "affected", "payments", "--json", *at)).json()
    assert found == {"participant": "payments", "stranded": sorted(FOREIGN), "lacking": sorted(LOST)}
    plain = await troth("participants", "affected", "payments", "--lacking", *at)
    assert plain.out.splitlines() == ["KIND\tNAME", *(f"LACKING\t{one}" for one in sorted(LOST))]
    assert plain.err.strip() == f"{MANY} lacking"
    offered = (await troth("participants", "affected", "payments", "--operations", "--json", *at)).json()
    assert offered == {"participant": "payments", "operations": sorted(map(_operation, range(MANY)))}
    short = (await troth("participants", *at)).out
    assert "... and about 250 more: troth participants affected payments --stranded" in short
    assert "... and 250 more: troth participants affected payments --lacking" in short
    commands = {item.command for item in await attention(Inside(restored._routes))}
    assert {f"troth participants affected payments --{kind}" for kind in ("stranded", "lacking")} <= commands


async def test_reconcile_tells_of_all_and_not_of_the_first_hundred(at: tuple[str, str], troth: Any) -> None:
    for command in (("reconcile",), ("participants", "reconcile", "payments")):
        ran = await troth(*command, "--json", *at)
        told = {(one["kind"], one["transaction_id"]) for one in ran.json()["drifts"] if one["participant"]}
        assert ran.code == 1
        assert {one for kind, one in told if kind == "a log that went back"} == set(LOST), command
        assert {one for kind, one in told if kind != "a log that went back"} == set(FOREIGN), command


@pytest.mark.parametrize(
    ("detail", "ids", "settling"),
    [
        (admin_pb2.PARTICIPANT_DETAIL_STRANDED, FOREIGN, ("resolve", "abort", "--participant", "payments")),
        (admin_pb2.PARTICIPANT_DETAIL_LACKING, LOST, ("forget",)),
    ],
)
async def test_pages_are_in_order_and_whole_while_an_operator_settles_one_after_the_other(
    restored: Daemon, at: tuple[str, str], troth: Any, detail: Any, ids: list[str], settling: tuple[str, ...]
) -> None:
    seen, settled, token = list[str](), set[str](), ""
    inside = Inside(restored._routes)
    async with grpc.aio.insecure_channel(restored.address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        while True:
            request = admin_pb2.ListParticipantDetailsRequest(participant="payments", detail=detail, page_token=token)
            page = await stub.ListParticipantDetails(request)
            seen += [row.name for row in page.rows]
            assert page.total == MANY - len(settled) and len(page.rows) <= 100
            if not page.next_page_token:
                break
            token = page.next_page_token
            name, *rest = settling
            not_seen = sorted(set(ids) - set(seen) - settled)
            for one in (token, not_seen[1]):
                assert (await troth("txn", name, one, *rest, "--why", "test", "--yes", *at)).code == 0
                settled.add(one)
            await _until(inside, detail, MANY - len(settled))
    assert seen == sorted(set(ids) - (settled - set(seen))) and len(settled) == 6 and len(seen) == MANY - 3
    kind = "stranded" if detail == admin_pb2.PARTICIPANT_DETAIL_STRANDED else "lacking"
    left = (await troth("participants", "affected", "payments", f"--{kind}", "--json", *at)).json()[kind]
    assert left == sorted(set(ids) - settled)


async def _until(inside: Inside, detail: Any, count: int) -> None:
    number: Callable[[Any], int] = (
        (lambda row: row.stranded_total) if detail == admin_pb2.PARTICIPANT_DETAIL_STRANDED else (lambda row: row.lacking_total)
    )
    async with asyncio.timeout(60):
        while number(await _row(inside)) != count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
