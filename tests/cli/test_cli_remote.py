"""Commands that ask a coordinator."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coordinator.cli import remote
from coordinator.server import Daemon
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.v1 import client_pb2, client_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc

ABSENT = "c1.1.0badcafe.3.4"


@pytest_asyncio.fixture
async def channel(daemon: Daemon) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the daemon."""
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        yield channel


async def begin(channel: grpc.aio.Channel) -> str:
    """An open transaction without branches."""
    stub = client_pb2_grpc.TransactionServiceStub(channel)
    first_ms = time.time_ns() // 1_000_000
    response = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000, key="order-7", first_attempt_ms=first_ms))
    return str(response.transaction_id)


def connect_participant(channel: grpc.aio.Channel, name: str, log_id: str = "11" * 16) -> Any:
    """A participant that says Hello and then nothing."""
    hello = participant_pb2.Hello(
        protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant=name, log_id=log_id, incarnation=1,
        software="test 1",
    )  # fmt: skip

    async def frames() -> AsyncIterator[participant_pb2.SessionRequest]:
        yield participant_pb2.SessionRequest(hello=hello, reports_complete=True)
        await asyncio.Event().wait()

    return participant_pb2_grpc.ParticipantServiceStub(channel).Session(frames())


async def test_list_prints_tabs_in_a_pipe_and_one_document_with_json(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    at = ("--coordinator", daemon.address)
    plain = await troth("txn", "list", *at)
    assert plain.code == 0
    header, row = plain.out.splitlines()
    assert header.split("\t")[:3] == ["TRANSACTION", "STATE", "OUTCOME"]
    assert row.split("\t")[:3] == [transaction_id, "ACTIVE", "IN_DOUBT"]
    document = (await troth("txn", "list", "--json", *at)).json()
    assert document["total"] == 1
    assert document["transactions"][0]["key"] == "order-7"
    none = (await troth("txn", "list", "--json", "--state", "committing", *at)).json()
    assert none["transactions"] == []


async def test_a_state_that_is_none_is_a_mistake(troth: Any, daemon: Daemon) -> None:
    at = ("--coordinator", daemon.address)
    bogus = await troth("txn", "list", "--state", "BOGUS", *at)
    assert bogus.code == 2 and "HEURISTIC" in bogus.err
    assert (await troth("txn", "list", "--state", "BOGUS", "--json", *at)).json()["error"]["reason"] == "USAGE"


async def test_the_list_is_narrowed_by_key(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    stub = client_pb2_grpc.TransactionServiceStub(channel)
    await stub.Commit(client_pb2.CommitRequest(transaction_id=transaction_id))
    found = (await troth("txn", "list", "--key", "order-7", "--json", "--coordinator", daemon.address)).json()
    assert [row["transaction_id"] for row in found["transactions"]] == [transaction_id]
    assert (await troth("txn", "list", "--key", "order-8", "--json", "--coordinator", daemon.address)).json()["total"] == 0


async def test_a_listing_of_any_size_comes_whole_or_says_how_it_goes_on(troth: Any, daemon: Daemon, channel: Any) -> None:
    """Some 8 MB of finished transactions: more than one message of gRPC may have."""
    stub = client_pb2_grpc.TransactionServiceStub(channel)
    first_ms = time.time_ns() // 1_000_000

    async def commit(number: int) -> None:
        begun = await stub.Begin(client_pb2.BeginRequest(timeout_ms=60_000, key=f"{number:04}" * 64, first_attempt_ms=first_ms))
        await stub.Commit(client_pb2.CommitRequest(transaction_id=begun.transaction_id))

    await asyncio.gather(*(commit(number) for number in range(50)))
    for name, done in list(daemon._core._book.finished.items()):  # type: ignore[attr-defined]  # as many as hours would make
        for number in range(400):
            copy = replace(done, participants=tuple(f"participant-{number}" for number in range(20)))
            daemon._core._book.finished[f"{name}{number:03}"] = copy  # type: ignore[attr-defined]  # the same
    at = ("--coordinator", daemon.address)
    whole = (await troth("txn", "list", "--finished", "--limit", "0", "--json", *at)).json()
    assert (len(whole["transactions"]), whole["total"], whole["next_page_token"]) == (20_050, 20_050, "")
    assert len({row["transaction_id"] for row in whole["transactions"]}) == 20_050
    some = await troth("txn", "list", "--finished", "--limit", "1500", "--json", *at)
    token = some.json()["next_page_token"]
    assert len(some.json()["transactions"]) == 1500 and token
    assert (await troth("txn", "list", "--finished", *at)).err.startswith("100 of 20050; --limit 0 shows all, --page-token ")
    rest = (await troth("txn", "list", "--finished", "--limit", "1", "--page-token", token, "--json", *at)).json()
    assert rest["transactions"][0]["transaction_id"] == whole["transactions"][1500]["transaction_id"]
    wrong = await troth("txn", "list", "--page-token", "x", "--json", *at)
    assert (wrong.code, wrong.json()["error"]["reason"]) == (1, "INVALID_ARGUMENT")


async def test_participants_come_in_pages_too(troth: Any, daemon: Daemon, channel: Any) -> None:
    calls = [connect_participant(channel, name) for name in ("north", "south")]
    for call in calls:
        await call.read()
    at = ("--coordinator", daemon.address)
    one = await troth("participants", "--limit", "1", *at)
    assert one.out.splitlines()[1].startswith("north") and "1 of 2" in one.err
    other = (await troth("participants", "list", "--page-token", "north", "--json", *at)).json()
    assert [row["participant"] for row in other["participants"]] == ["south"]
    for call in calls:
        call.cancel()


async def test_explain_says_it_in_words(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    explained = await troth("txn", "explain", transaction_id, "--coordinator", daemon.address)
    assert f"{transaction_id} is ACTIVE" in explained.out
    assert "Next: " in explained.out
    assert "If forced: abort" in explained.out
    shown = await troth("txn", "show", transaction_id, "--coordinator", daemon.address, "--json")
    assert shown.json()["summary"]["state"] == "ACTIVE"


async def test_show_of_an_unknown_transaction_fails(troth: Any, daemon: Daemon) -> None:
    shown = await troth("txn", "show", ABSENT, "--coordinator", daemon.address, "--json")
    assert shown.code == 1
    assert shown.json()["error"]["reason"] == "UNKNOWN_TRANSACTION"
    explained = await troth("txn", "explain", ABSENT, "--coordinator", daemon.address)
    assert explained.code == 1
    assert "Nothing is known" in explained.err
    watched = await troth("txn", "watch", ABSENT, "--coordinator", daemon.address)
    assert watched.code == 1 and watched.out.startswith("UNKNOWN\tIN_DOUBT\tNothing is known")
    for command in (("resolve", ABSENT, "abort"), ("forget", ABSENT)):
        forced = await troth("txn", *command, "--why", "test", "--yes", "--coordinator", daemon.address)
        assert forced.code == 1, command


async def test_resolve_does_not_act_unasked(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    at = ("--coordinator", daemon.address)
    no_reason = await troth("txn", "resolve", transaction_id, "abort", *at)
    assert no_reason.code == 2
    assert "--why" in no_reason.err
    unasked = await troth("txn", "resolve", transaction_id, "abort", "--why", "test", *at)
    assert unasked.code == 2
    assert "it is aborted everywhere" in unasked.err
    assert "--yes" in unasked.err
    still = await troth("txn", "show", transaction_id, "--json", *at)
    assert still.json()["summary"]["state"] == "ACTIVE"


async def test_resolve_aborts_what_is_undecided(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    at = ("--coordinator", daemon.address)
    done = await troth("txn", "resolve", transaction_id, "abort", "--why", "test", "--yes", "--json", *at)
    assert done.code == 0
    assert done.json()["outcome"] == "ABORTED"
    again = await troth("txn", "resolve", transaction_id, "abort", "--why", "test", "--yes", "--json", *at)
    assert again.code == 1
    assert again.json()["error"]["reason"] in ("UNKNOWN_TRANSACTION", "NOT_ACTIVE")


async def test_forget_is_only_for_heuristic_outcomes(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    forgotten = await troth("txn", "forget", transaction_id, "--why", "test", "--yes", "--coordinator", daemon.address)
    assert forgotten.code == 1
    assert "NOT_ACTIVE" in forgotten.err


async def test_watch_writes_one_list_as_it_grows(troth: Any, daemon: Daemon, channel: Any) -> None:
    transaction_id = await begin(channel)
    stub = client_pb2_grpc.TransactionServiceStub(channel)
    await stub.Commit(client_pb2.CommitRequest(transaction_id=transaction_id))
    watched = await troth("txn", "watch", transaction_id, "--json", "--coordinator", daemon.address)
    assert [state["state"] for state in watched.json()] == ["COMMITTED"]
    plain = await troth("txn", "watch", transaction_id, "--coordinator", daemon.address)
    assert plain.out.startswith("COMMITTED\tCOMMITTED\t")


async def test_operations_without_lock_keys_are_told(troth: Any, daemon: Daemon, channel: Any) -> None:
    call = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
    hello = participant_pb2.Hello(
        protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant="payments", log_id="11" * 16, incarnation=1
    )
    await call.write(participant_pb2.SessionRequest(hello=hello, reports_complete=True))
    await call.read()
    frame = participant_pb2.SessionRequest()
    frame.undeclared.add(name="sweep")
    await call.write(frame)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "sweep" not in (said := await troth("participants", "--coordinator", daemon.address)).out:
            pass
    assert "payments has operations that lock everything, for want of lock keys" in said.out


async def test_participants_are_listed_and_replaced(troth: Any, daemon: Daemon, channel: Any) -> None:
    call = connect_participant(channel, "payments")
    await call.read()
    at = ("--coordinator", daemon.address)
    row = (await troth("participants", *at)).out.splitlines()[1].split("\t")
    assert row[:3] == ["payments", "yes", "1"]
    listed = (await troth("participants", "list", "--json", *at)).json()
    assert listed["participants"][0]["software"] == "test 1"
    told = ("--log-id", "log-other", "--why", "test", "--yes")
    busy = await troth("participants", "replace", "payments", *told, *at)
    assert busy.code == 1
    other = connect_participant(channel, "payments", log_id="log-other")
    assert (await other.read()).goodbye.cause.reason == "FOREIGN_LOG"
    listed = await troth("participants", *at)
    assert "troth participants replace payments --log-id log-other" in listed.out, "what has to be typed is there to be copied"
    call.cancel()
    unnamed = await troth("participants", "replace", "payments", "--why", "test", "--yes", *at)
    assert unnamed.code == 2 and "--log-id" in unnamed.err
    unknown = await troth("participants", "replace", "nobody", *told, "--json", *at)
    assert unknown.json()["error"]["reason"] == "UNKNOWN_PARTICIPANT"
    too_long = await troth("participants", "replace", "payments", "--log-id", "x" * 65, "--why", "test", "--yes", "--json", *at)
    assert too_long.json()["error"]["reason"] == "INVALID_ARGUMENT"
    while (replaced := await troth("participants", "replace", "payments", *told, *at)).code:
        assert "is connected" in replaced.err  # until the daemon has noticed that its stream has ended
    assert "log-other will be accepted" in replaced.out
    assert "waits for the log log-other" in (await troth("participants", *at)).out


async def test_drain_and_status(troth: Any, daemon: Daemon) -> None:
    at = ("--coordinator", daemon.address)
    assert (await troth("drain", "--json", *at)).json() == {"undecided": 0, "unacknowledged": 0}
    status = (await troth("status", "--json", *at)).json()
    assert status["draining"] is True
    assert status["limits"]["participants_max"] == 64
    assert "forced_records" in (await troth("status", *at)).out


async def test_what_is_no_id_is_refused(troth: Any, daemon: Daemon) -> None:
    refused = await troth("txn", "explain", "nonsense", "--coordinator", daemon.address, "--json")
    assert refused.code == 1
    assert refused.json()["error"]["reason"] == "INVALID_TRANSACTION_ID"


async def test_nobody_at_the_address_is_exit_4(troth: Any, daemon: Daemon) -> None:
    host, _, _ = daemon.address.partition(":")
    away = await troth("txn", "list", "--coordinator", f"{host}:1", "--json")
    assert away.code == 4
    assert away.json()["error"]["reason"] == "COORDINATOR_AWAY"
    assert (await troth("txn", "list", "--coordinator", "nowhere")).code == 2


async def test_the_address_is_found_in_the_data_directory(troth: Any, daemon: Daemon, monkeypatch: Any) -> None:
    monkeypatch.setenv("TROTH_DATA_DIRECTORY", daemon.config.shell.data_directory)
    assert (await troth("txn", "list", "--json")).json()["total"] == 0
    monkeypatch.setenv("TROTH_COORDINATOR", "127.0.0.1:1")
    assert (await troth("txn", "list")).code == 4


def test_a_uid_without_a_name_is_recorded_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers have it that run under an arbitrary uid."""

    def getuser() -> str:
        raise KeyError("getpwuid(): uid not found: 1000770000")

    monkeypatch.setattr(remote.getpass, "getuser", getuser)
    assert remote.who_am_i().startswith(f"uid{os.getuid()}@")
