"""A whole participant on loopback, against a coordinator made of paper: both resources of the SDK, all the ways to vote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator, Stream, operation, transaction

from participant_sdk import LogBranch, LogResource, Participant, Refuse, SqliteResource
from participant_sdk.limits import Limits
from troth.errors import Aborted, ConfigError, LogError, LogFailed, Reason, RequestError
from troth.log.sqlite import SqliteLog
from troth.v1 import common_pb2
from troth.v1 import participant_pb2 as pb
from troth.values import decode_results

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"
Make = Callable[[], Participant]


pytestmark = pytest.mark.usefixtures("redials_at_once")


def bank_of(resource: Any, directory: Path, address: str, **settings: Any) -> Participant:
    return Participant("bank", resource=resource, data_directory=directory, coordinator=address, **settings)


def sqlite_bank(directory: Path, address: str) -> Participant:
    bank = bank_of(SqliteResource(directory / "bank.db", schema=SCHEMA), directory, address)

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def deposit(db: Any, *, account: str, amount: int) -> int:
        if amount <= 0:
            raise Refuse("BAD_AMOUNT", "nothing to pay in")
        db.execute(
            "INSERT INTO account VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
            (account, amount),
        )
        return int(db.one("SELECT balance FROM account WHERE name = ?", (account,))[0])

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def look(db: Any, *, account: str) -> int:
        row = db.one("SELECT balance FROM account WHERE name = ?", (account,))
        return int(row[0]) if row else 0

    return bank


def log_bank(directory: Path, address: str) -> Participant:
    bank = bank_of(LogResource(), directory, address)

    @bank.operation(locks=lambda account: [f"account/{account}"])
    async def deposit(branch: LogBranch, *, account: str, amount: int) -> int:
        await asyncio.sleep(0)
        if amount <= 0:
            raise Refuse("BAD_AMOUNT", "nothing to pay in")
        return amount

    @bank.operation(locks=lambda account: [f"account/{account}"])
    def look(branch: LogBranch, *, account: str) -> int:
        branch.read_only()
        return 0

    return bank


@pytest.fixture(params=[sqlite_bank, log_bank], ids=["sqlite", "log"])
def make(request: pytest.FixtureRequest, tmp_path: Path, coordinator: PaperCoordinator) -> Make:
    return lambda: request.param(tmp_path, coordinator.address)


def balances(db: Any) -> dict[str, int]:
    return dict(db.execute("SELECT name, balance FROM account"))


def prepare(stream: Stream, number: int, *operations: common_pb2.Operation, **fields: Any) -> str:
    name = transaction(number)
    fields = {"order": number, "timeout_ms": 5000, "incarnation": stream.hello.incarnation, **fields}
    stream.say(prepares=[pb.Prepare(transaction_id=name, operations=operations, **fields)])
    return name


def decide(stream: Stream, number: int, kind: pb.DecisionKind.ValueType, *, acknowledge: bool = False) -> None:
    stream.say(decisions=[pb.Decision(transaction_id=transaction(number), order=number, kind=kind, acknowledge=acknowledge)])


def commit(stream: Stream, number: int) -> None:
    decide(stream, number, pb.DECISION_KIND_COMMIT)


def context(number: int, call_id: str = "1") -> common_pb2.TransactionContext:
    return common_pb2.TransactionContext(transaction_id=transaction(number), first_attempt_ms=1, call_id=call_id)


async def enlist(stream: Stream, number: int) -> None:
    assert (await stream.heard("enlists")).transaction_id == transaction(number)
    stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(number), order=number)])


PAY = operation("deposit", account="a", amount=5)
LOOK = operation("look", account="a")


# ---- one-shot


async def test_hello_introduces_the_participant(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        hello = (await coordinator.welcomed()).hello
    assert (hello.participant, hello.incarnation, list(hello.operations)) == ("bank", 1, ["deposit", "look"])
    assert (hello.protocol.lowest, hello.protocol.highest, len(hello.log_id)) == (1, 1, 32)


async def test_prepare_vote_commit_acknowledge(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        stream = await coordinator.welcomed()
        name = prepare(stream, 1, PAY)
        vote = await stream.heard("votes")
        assert (vote.transaction_id, vote.kind, decode_results(vote.results)) == (name, pb.VOTE_KIND_YES, [5])
        commit(stream, 1)
        answer = await stream.heard("acknowledgements")
        assert (answer.transaction_id, answer.kind) == (name, pb.ACKNOWLEDGEMENT_KIND_DONE)


async def test_one_phase_commits_and_says_so(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 1, PAY, one_phase=True)
        vote = await stream.heard("votes")
        assert (vote.kind, decode_results(vote.results)) == (pb.VOTE_KIND_COMMITTED, [5])


async def test_a_branch_that_changed_nothing_leaves_with_its_results(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 1, LOOK)
        vote = await stream.heard("votes")
        assert (vote.kind, decode_results(vote.results)) == (pb.VOTE_KIND_READ_ONLY, [0])


@pytest.mark.parametrize(
    ("call", "reason", "code"),
    [
        (operation("deposit", account="a", amount=0), "REFUSED", "BAD_AMOUNT"),
        (operation("deposit", account="a"), "BAD_ARGUMENTS", ""),
        (operation("withdraw", account="a"), "UNKNOWN_OPERATION", ""),
    ],
)
async def test_what_must_not_happen_is_a_no_with_its_cause(
    make: Make, coordinator: PaperCoordinator, call: common_pb2.Operation, reason: str, code: str
) -> None:
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 1, call)
        vote = await stream.heard("votes")
        assert (vote.kind, vote.cause.reason, vote.cause.code) == (pb.VOTE_KIND_NO, reason, code)
        assert vote.cause.participant == "bank"


async def test_an_abort_is_undone(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        prepare(stream, 1, PAY)
        await stream.heard("votes")
        decide(stream, 1, pb.DECISION_KIND_ABORT, acknowledge=True)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
        if isinstance(bank._setup.resource, SqliteResource):
            assert await bank.read(balances) == {}


# ---- interactive


async def test_a_call_before_a_restarted_participant_has_reached_its_coordinator_is_told_so(
    make: Make, coordinator: PaperCoordinator
) -> None:
    async with make():
        await coordinator.welcomed()
    async with make() as bank:
        with pytest.raises(Aborted) as caught:
            bank.branch(context(1))
        assert (caught.value.reason, caught.value.retryable) == (Reason.COORDINATOR_AWAY, True)


async def test_an_interactive_branch_enlists_works_and_commits(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        branch = bank.branch(context(1))
        running = asyncio.create_task(branch.run("deposit", account="a", amount=5))
        await enlist(stream, 1)
        assert await running == 5
        prepare(stream, 1, interactive=True, operation_count=1)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        commit(stream, 1)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
        with pytest.raises(Aborted) as caught:
            await branch.run("deposit", account="a", amount=5)
        assert caught.value.reason is Reason.NOT_ACTIVE


async def test_a_half_branch_votes_no(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        running = asyncio.create_task(bank.branch(context(1)).run("deposit", account="a", amount=5))
        await enlist(stream, 1)
        await running
        prepare(stream, 1, interactive=True, operation_count=2)
        vote = await stream.heard("votes")
        assert (vote.kind, vote.cause.reason) == (pb.VOTE_KIND_NO, "OPERATION_COUNT")


async def test_a_repeated_call_is_recognised(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        first = asyncio.create_task(bank.branch(context(1, "7")).run("deposit", account="a", amount=5))
        repeat = asyncio.create_task(bank.branch(context(1, "7")).run("deposit", account="a", amount=5))
        await enlist(stream, 1)
        assert [await first, await repeat] == [5, 5]
        assert await bank.branch(context(1, "7")).run("deposit", account="a", amount=5) == 5
        prepare(stream, 1, interactive=True, operation_count=1)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES


async def test_a_refusal_reaches_the_service_and_the_branch_goes_on(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        branch = bank.branch(context(1))
        running = asyncio.create_task(branch.run("deposit", account="a", amount=0))
        await enlist(stream, 1)
        with pytest.raises(Aborted) as caught:
            await running
        assert (caught.value.reason, caught.value.code, caught.value.participant) == (Reason.REFUSED, "BAD_AMOUNT", "bank")
        assert await branch.run("deposit", account="a", amount=5) == 5
        prepare(stream, 1, interactive=True, operation_count=1)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES


async def test_wrong_calls_are_refused_before_anything_runs(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        branch = bank.branch(context(1))
        for call, reason in [
            (branch.run("withdraw"), Reason.UNKNOWN_OPERATION),
            (branch.run("deposit", account=5, amount=5), Reason.BAD_ARGUMENTS),
            (branch.run("deposit", account=object()), Reason.BAD_ARGUMENTS),
        ]:
            with pytest.raises(RequestError) as caught:
                await call
            assert caught.value.reason is reason
        assert stream.queue("enlists").empty()


async def test_a_call_that_the_coordinator_does_not_accept_is_refused(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        running = asyncio.create_task(bank.branch(context(1)).run("deposit", account="a", amount=5))
        await stream.heard("enlists")
        refusal = common_pb2.Cause(reason="ENLIST_CLOSED", message="the commit has begun")
        stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(1), refusal=refusal)])
        with pytest.raises(Aborted) as caught:
            await running
        assert caught.value.reason is Reason.ENLIST_CLOSED


async def test_a_cancelled_caller_is_forgotten(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        running = asyncio.create_task(bank.branch(context(1)).run("deposit", account="a", amount=5))
        await stream.heard("enlists")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        branch = bank.branch(context(2))
        other = asyncio.create_task(branch.run("deposit", account="a", amount=6))
        await enlist(stream, 2)
        assert await other == 6


async def test_a_branch_needs_a_transaction(make: Make) -> None:
    with pytest.raises(RequestError) as caught:
        make().branch()
    assert caught.value.reason is Reason.NO_CONTEXT


# ---- restarts


async def test_a_branch_in_doubt_survives_a_restart_and_commits(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        stream = await coordinator.welcomed()
        name = prepare(stream, 1, PAY)
        await stream.heard("votes")
        before = stream.hello
    async with make() as bank:
        stream = await coordinator.welcomed()
        assert (stream.hello.log_id, stream.hello.incarnation) == (before.log_id, before.incarnation + 1)
        report = await stream.heard("reports")
        assert (report.transaction_id, report.state) == (name, pb.BRANCH_STATE_PREPARED)
        assert decode_results(report.results) == [5]
        commit(stream, 1)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
        if isinstance(bank._setup.resource, SqliteResource):
            assert await bank.read(balances) == {"a": 5}


async def test_locks_are_taken_again_after_a_restart(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 1, PAY, first_attempt_ms=1)
        await stream.heard("votes")
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 2, PAY, first_attempt_ms=2)
        vote = await stream.heard("votes")
        assert (vote.kind, vote.cause.reason, vote.cause.retryable) == (pb.VOTE_KIND_NO, "CONFLICT", True)


@pytest.mark.parametrize("kind", [pb.DECISION_KIND_COMMIT, pb.DECISION_KIND_ABORT])
async def test_whoever_begins_in_the_frame_of_a_decision_finds_the_locks_free(
    make: Make, coordinator: PaperCoordinator, kind: pb.DecisionKind.ValueType
) -> None:
    async with make():
        stream = await coordinator.welcomed()
        name = prepare(stream, 1, PAY, first_attempt_ms=1)
        await stream.heard("votes")
        decision = pb.Decision(transaction_id=name, order=1, kind=kind)
        later = pb.Prepare(
            transaction_id=transaction(2), order=2, operations=[PAY], first_attempt_ms=2, incarnation=1, timeout_ms=5000
        )
        stream.say(prepares=[later], decisions=[decision])
        vote = await stream.heard("votes")
        assert (vote.transaction_id, vote.kind) == (transaction(2), pb.VOTE_KIND_YES)


async def test_the_next_interactive_transaction_of_a_caller_finds_the_one_before_rolled_back(
    make: Make, coordinator: PaperCoordinator
) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        first = asyncio.create_task(bank.branch(context(1)).run("deposit", account="a", amount=5))
        await enlist(stream, 1)
        assert await first == 5
        second = asyncio.create_task(bank.branch(context(2)).run("deposit", account="a", amount=5))
        await stream.heard("enlists")
        abort = pb.Decision(transaction_id=transaction(1), order=1, kind=pb.DECISION_KIND_ABORT)
        stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(2), order=2)], decisions=[abort])
        assert await second == 5


async def test_a_stale_coordinator_is_not_listened_to_after_a_restart(make: Make, coordinator: PaperCoordinator) -> None:
    async with make():
        await coordinator.welcomed(epoch=5)
    async with make() as bank:
        old = await coordinator.accept()
        old.welcome(epoch=4)
        await old.until_ended()
        assert old.queue("reports_complete").empty()
        await coordinator.welcomed(epoch=5)
        await bank.wait_connected()


async def test_connected_is_who_was_heard_to_the_end_of_its_hello(make: Make, coordinator: PaperCoordinator) -> None:
    async with make() as bank:
        stream = await coordinator.accept()
        waiting = asyncio.create_task(bank.wait_connected())
        stream.welcome()
        await stream.heard("reports_complete")
        assert not waiting.done()
        stream.say(watermark=pb.Watermark())
        await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        stream.end()
        again = await coordinator.accept()
        waiting = asyncio.create_task(bank.wait_connected())
        again.welcome()
        await again.heard("reports_complete")
        assert not waiting.done()
        again.say(watermark=pb.Watermark())
        await asyncio.wait_for(waiting, PATIENCE_SECONDS)


async def test_two_processes_cannot_share_a_log(make: Make) -> None:
    async with make():
        with pytest.raises(LogError) as caught:
            await make().start()
        assert caught.value.reason is Reason.LOG_LOCKED


# ---- living and ending


async def test_a_coordinator_that_is_away_stops_nothing(tmp_path: Path) -> None:
    bank = bank_of(SqliteResource(tmp_path / "bank.db", schema=SCHEMA), tmp_path, "127.0.0.1:1")
    async with bank:
        await bank.local(lambda db: db.execute("INSERT INTO account VALUES ('a', 1)"))
        assert await bank.read(balances) == {"a": 1}
        waiting = asyncio.create_task(bank.wait_connected())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_calls_without_a_coordinator_are_told_so(tmp_path: Path) -> None:
    bank = bank_of(LogResource(), tmp_path, "127.0.0.1:1", limits=Limits(enlist_wait_seconds=0.1))
    bank.operation(name="note")(note)
    async with bank:
        with pytest.raises(Aborted) as caught:
            await bank.branch(context(1)).run(note)
        assert (caught.value.reason, caught.value.retryable) == (Reason.COORDINATOR_AWAY, True)


def note(branch: LogBranch) -> None:
    """An operation without arguments."""


async def test_closing_ends_serve_and_refuses_what_waits(make: Make, coordinator: PaperCoordinator) -> None:
    bank = make()
    async with bank:
        stream = await coordinator.welcomed()
        serving = asyncio.create_task(bank.serve())
        running = asyncio.create_task(bank.branch(context(1)).run("deposit", account="a", amount=5))
        await stream.heard("enlists")
        await bank.close()
        await asyncio.wait_for(serving, PATIENCE_SECONDS)
        for late in (running, bank.branch(context(2)).run("deposit", account="a", amount=5), bank.wait_connected()):
            with pytest.raises(RequestError) as caught:
                await late
            assert caught.value.reason is Reason.SHUTTING_DOWN
    with pytest.raises(ConfigError, match="started before"):
        await bank.start()


@pytest.mark.parametrize("reason", [Reason.FOREIGN_LOG, Reason.STALE_INCARNATION, Reason.VERSION_MISMATCH])
async def test_a_goodbye_for_good_ends_the_participant(make: Make, coordinator: PaperCoordinator, reason: Reason) -> None:
    async with make() as bank:
        stream = await coordinator.accept()
        stream.goodbye(reason.name, retryable=False)
        with pytest.raises(RequestError) as caught:
            await asyncio.wait_for(bank.serve(), PATIENCE_SECONDS)
        assert caught.value.reason is reason


async def test_a_failed_log_ends_the_participant_and_a_restart_recovers(
    make: Make, coordinator: PaperCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make() as bank:
        stream = await coordinator.welcomed()
        kind = SqliteResource if isinstance(bank._setup.resource, SqliteResource) else SqliteLog
        with monkeypatch.context() as patch:
            patch.setattr(kind, "write", fail)
            prepare(stream, 1, PAY)
            with pytest.raises(LogError) as caught:
                await asyncio.wait_for(bank.serve(), PATIENCE_SECONDS)
            assert caught.value.reason is Reason.LOG_FAILED
            await stream.until_ended()
        assert stream.queue("votes").empty()
        with pytest.raises(LogError):
            await bank.read(lambda db: None)
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 2, PAY)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES


async def fail(*_: Any, **__: Any) -> None:
    raise LogFailed(Reason.LOG_FAILED, "no space left on device")


@pytest.mark.parametrize(("name", "address"), [("Bank", "h:1"), ("", "h:1"), ("bank", "")])
def test_a_participant_that_cannot_be_is_refused(tmp_path: Path, name: str, address: str) -> None:
    with pytest.raises(ConfigError):
        Participant(name, resource=LogResource(), data_directory=tmp_path, coordinator=address)


def test_coroutines_are_no_operations_of_a_database(tmp_path: Path) -> None:
    bank = bank_of(SqliteResource(tmp_path / "bank.db"), tmp_path, "h:1")

    async def slow(db: Any) -> None: ...

    with pytest.raises(ConfigError, match="async def"):
        bank.operation(slow)
