"""Resources that are asked step by step: faults of theirs, repeats, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ledger import LedgerResource, Store, register
from paper_coordinator import PATIENCE_SECONDS, PaperCoordinator, Stream, operation, transaction

from participant_sdk import LogBranch, LogResource, Participant, backlog, drivers, external
from participant_sdk.resources.contract import Broken, Refused, Unreachable
from participant_sdk.resources.log_only import LoggedOperation
from troth.backoff import Backoff
from troth.errors import Aborted, LogError, RequestError
from troth.v1 import common_pb2
from troth.v1 import participant_pb2 as pb
from troth.values import decode_results

AWAY = Unreachable("the server does not answer")
PUT = operation("put", name="a", value=1)


pytestmark = pytest.mark.usefixtures("redials_at_once")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "RETRY", Backoff(0.005, 0.01))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(tmp_path: Path, coordinator: PaperCoordinator, store: Store) -> Any:
    def ledger() -> Participant:
        participant = Participant(
            "ledger", resource=LedgerResource(store), data_directory=tmp_path, coordinator=coordinator.address
        )
        register(participant.operation(locks=[]))
        return participant

    return ledger


def prepare(stream: Stream, number: int, *operations: common_pb2.Operation, **fields: Any) -> str:
    name = transaction(number)
    fields = {"order": number, "timeout_ms": 5000, "incarnation": stream.hello.incarnation, **fields}
    stream.say(prepares=[pb.Prepare(transaction_id=name, operations=operations, **fields)])
    return name


def decide(stream: Stream, number: int, kind: pb.DecisionKind.ValueType) -> None:
    stream.say(
        decisions=[pb.Decision(transaction_id=transaction(number), order=number, kind=kind, acknowledge=True)]
    )


async def prepared(stream: Stream, number: int, *operations: common_pb2.Operation) -> None:
    prepare(stream, number, *operations)
    assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES


async def test_a_branch_that_was_prepared_behind_our_back_is_rolled_back(
    make: Any, coordinator: PaperCoordinator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner of the log before us was stopped in the middle of its prepare, and went on when recovery had looked."""
    monkeypatch.setattr(external, "SWEEP", Backoff(0.01, 0.01))
    async with make():
        stream = await coordinator.welcomed()
        await prepared(stream, 1, PUT)
        store.prepared["ledger/late"] = {"b": 1}
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await store.rollbacks.get() == "ledger/late"
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        await stream.heard("acknowledgements")
        assert store.entries == {"a": 1} and store.rollbacks.empty()


async def test_both_outcomes(make: Any, coordinator: PaperCoordinator, store: Store) -> None:
    async with make():
        stream = await coordinator.welcomed()
        await prepared(stream, 1, PUT)
        assert store.entries == {}
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
        await prepared(stream, 2, operation("put", name="a", value=2))
        decide(stream, 2, pb.DECISION_KIND_ABORT)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
        assert store.entries == {"a": 1}


async def test_one_phase_and_read_only(make: Any, coordinator: PaperCoordinator, store: Store) -> None:
    async with make():
        stream = await coordinator.welcomed()
        prepare(stream, 1, PUT, one_phase=True)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_COMMITTED
        prepare(stream, 2, operation("get", name="a"))
        vote = await stream.heard("votes")
        assert (vote.kind, decode_results(vote.results)) == (pb.VOTE_KIND_READ_ONLY, [1])
        assert store.prepared == {}


@pytest.mark.parametrize("step", ["begin", "execute", "prepare"])
async def test_a_step_that_fails_is_a_no_and_leaves_nothing(
    make: Any, coordinator: PaperCoordinator, store: Store, step: str
) -> None:
    refused = Refused(common_pb2.Cause(reason="CONSTRAINT", message="negative"))
    for number, fault, reason in ((1, refused, "CONSTRAINT"), (3, AWAY, "PARTICIPANT_AWAY")):
        store.faults[step] = deque([fault])
        async with make():
            stream = await coordinator.welcomed()
            prepare(stream, number, PUT)
            vote = await stream.heard("votes")
            assert (vote.kind, vote.cause.reason) == (pb.VOTE_KIND_NO, reason)
            await prepared(stream, number + 1, PUT)
            decide(stream, number + 1, pb.DECISION_KIND_ABORT)
            await stream.heard("acknowledgements")
        assert store.prepared == {}


async def test_a_commit_is_repeated_until_it_is_done_and_holds_up_nobody(
    make: Any, coordinator: PaperCoordinator, store: Store
) -> None:
    async with make():
        stream = await coordinator.welcomed()
        await prepared(stream, 1, PUT)
        await prepared(stream, 2, operation("put", name="b", value=2))
        store.faults["commit"] = deque([AWAY])
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        decide(stream, 2, pb.DECISION_KIND_COMMIT)
        acknowledged = [await stream.heard("acknowledgements") for _ in range(2)]
        assert [one.transaction_id for one in acknowledged] == [transaction(2), transaction(1)]
        assert store.entries == {"a": 1, "b": 2}


@pytest.mark.parametrize("kind", [pb.DECISION_KIND_COMMIT, pb.DECISION_KIND_ABORT])
async def test_what_is_decided_goes_before_what_begins(
    make: Any, coordinator: PaperCoordinator, store: Store, kind: pb.DecisionKind.ValueType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise those that are prepared and not finished pile up until the resource has no room for another one."""
    monkeypatch.setattr(backlog, "UNFINISHED_MAX", 2)
    monkeypatch.setattr(backlog, "HELD_BACK_SECONDS_MAX", 3600.0)
    async with make():
        stream = await coordinator.welcomed()
        for number in (1, 2):
            await prepared(stream, number, PUT)
        store.finishing.clear()
        for number in (1, 2):
            decide(stream, number, kind)
        prepare(stream, 3, PUT)
        await asyncio.sleep(0.1)
        assert len(store.begun) == 2, "the third waits for the first two"
        store.finishing.set()
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        assert store.begun[-1].endswith(transaction(3))


async def test_what_begins_waits_for_a_while_only(
    make: Any, coordinator: PaperCoordinator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resource that finishes nothing says itself what is wrong with it; and a branch that waits for its next try is in nobody's
    way."""
    monkeypatch.setattr(backlog, "UNFINISHED_MAX", 1)
    monkeypatch.setattr(backlog, "HELD_BACK_SECONDS_MAX", 0.01)
    async with make():
        stream = await coordinator.welcomed()
        await prepared(stream, 1, PUT)
        store.finishing.clear()
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        await prepared(stream, 2, operation("put", name="b", value=2))
        monkeypatch.setattr(backlog, "HELD_BACK_SECONDS_MAX", 3600.0)
        monkeypatch.setattr(drivers, "RETRY", Backoff(3600.0, 3600.0))
        store.faults["commit"] = deque([AWAY])
        store.finishing.set()
        await prepared(stream, 3, operation("put", name="c", value=3))


@pytest.mark.parametrize(("kind", "step"), [(pb.DECISION_KIND_COMMIT, "commit"), (pb.DECISION_KIND_ABORT, "rollback")])
async def test_what_can_never_be_finished_is_a_hazard(
    make: Any, coordinator: PaperCoordinator, store: Store, kind: pb.DecisionKind.ValueType, step: str
) -> None:
    async with make():
        stream = await coordinator.welcomed()
        await prepared(stream, 1, PUT)
        store.faults[step] = deque([Broken("somebody was there before")])
        decide(stream, 1, kind)
        answer = await stream.heard("acknowledgements")
        assert answer.kind == pb.ACKNOWLEDGEMENT_KIND_HAZARD
        assert "somebody was there before" in answer.detail


async def test_in_doubt_after_a_restart_then_committed(make: Any, coordinator: PaperCoordinator, store: Store) -> None:
    async with make():
        await prepared(await coordinator.welcomed(), 1, PUT)
    async with make():
        stream = await coordinator.welcomed()
        assert (await stream.heard("reports")).state == pb.BRANCH_STATE_PREPARED
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE
    assert store.entries == {"a": 1}


async def test_what_was_prepared_and_never_voted_is_rolled_back(
    make: Any, coordinator: PaperCoordinator, store: Store
) -> None:
    async with make():
        await prepared(await coordinator.welcomed(), 1, PUT)
    known = f"ledger/{transaction(1)}"
    store.prepared |= {f"ledger/{transaction(2)}": {"b": 2}, f"other/{transaction(1)}": {"c": 3}}
    store.faults |= {"open": deque([AWAY]), "in_doubt": deque([AWAY]), "rollback": deque([AWAY])}
    async with make():
        await coordinator.welcomed()
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(2):
                await store.rollbacks.get()
        assert set(store.prepared) == {known, f"other/{transaction(1)}"}


async def test_a_resource_that_is_broken_stops_the_start(make: Any, store: Store) -> None:
    store.faults["open"] = deque([Broken("max_prepared_transactions is 0")])
    with pytest.raises(LogError, match="max_prepared_transactions is 0"):
        await make().start()


async def test_local_work_is_refused(make: Any) -> None:
    async with make() as ledger:
        with pytest.raises(RequestError, match=r"no participant\.local"):
            await ledger.read(lambda db: None)


async def test_interactive_work_of_several_calls(make: Any, coordinator: PaperCoordinator, store: Store) -> None:
    async with make() as ledger:
        stream = await coordinator.welcomed()
        context = common_pb2.TransactionContext(transaction_id=transaction(1), first_attempt_ms=1, call_id="1")
        branch = ledger.branch(context)
        first = asyncio.create_task(branch.run("put", name="a", value=1))
        await stream.heard("enlists")
        stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(1), order=1)])
        await first
        assert await branch.run("get", name="a") == 1
        prepare(stream, 1, interactive=True, operation_count=2)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        await stream.heard("acknowledgements")
        assert store.entries == {"a": 1}


async def test_a_call_that_fails_ends_the_branch_with_its_earlier_work(
    make: Any, coordinator: PaperCoordinator, store: Store
) -> None:
    async with make() as ledger:
        stream = await coordinator.welcomed()
        context = common_pb2.TransactionContext(transaction_id=transaction(1), first_attempt_ms=1, call_id="1")
        branch = ledger.branch(context)
        first = asyncio.create_task(branch.run("put", name="a", value=1))
        await stream.heard("enlists")
        stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(1), order=1)])
        await first
        with pytest.raises(Aborted, match="it refuses"):
            await branch.run("refuse", name="b", value=1)
        prepare(stream, 1, interactive=True, operation_count=1)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_NO


async def test_whoever_goes_on_after_a_refusal_begins_when_its_rollback_is_over(
    make: Any, coordinator: PaperCoordinator, store: Store
) -> None:
    """The branch has the same name: a rollback that is late would take the new work for the old."""
    store.faults["rollback"] = deque([AWAY] * 5)
    async with make() as ledger:
        stream = await coordinator.welcomed()
        context = common_pb2.TransactionContext(transaction_id=transaction(1), first_attempt_ms=1, call_id="1")
        branch = ledger.branch(context)
        first = asyncio.create_task(branch.run("refuse", name="a", value=1))
        await stream.heard("enlists")
        stream.say(enlisted=[pb.Enlisted(transaction_id=transaction(1), order=1)])
        with pytest.raises(Aborted, match="it refuses"):
            await first
        await branch.run("put", name="b", value=2)
        prepare(stream, 1, interactive=True, operation_count=1)
        assert (await stream.heard("votes")).kind == pb.VOTE_KIND_YES
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(6):
                await store.rollbacks.get()
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        await stream.heard("acknowledgements")
        assert store.entries == {"b": 2}


# ---- the log-only resource with hooks


class Told:
    """Hooks that write down what they are told, and fail first."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls: asyncio.Queue[tuple[str, str, list[Any]]] = asyncio.Queue()

    async def on_commit(self, transaction_id: str, operations: Sequence[LoggedOperation]) -> None:
        self._tell("commit", transaction_id, operations)

    def on_abort(self, transaction_id: str, operations: Sequence[LoggedOperation]) -> None:
        self._tell("abort", transaction_id, operations)

    def _tell(self, what: str, transaction_id: str, operations: Sequence[LoggedOperation]) -> None:
        self.calls.put_nowait((what, transaction_id, [(one.name, one.arguments) for one in operations]))
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the partner is away")

    async def call(self) -> tuple[str, str, list[Any]]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.calls.get()


def mail(told: Told, directory: Path, coordinator: PaperCoordinator) -> Participant:
    resource = LogResource(on_commit=told.on_commit, on_abort=told.on_abort)
    participant = Participant("mail", resource=resource, data_directory=directory, coordinator=coordinator.address)

    @participant.operation(locks=[])
    def send(branch: LogBranch, *, to: str) -> str:
        return branch.transaction_id

    return participant


SEND = operation("send", to="b@example.org")
SENT = [("send", {"to": "b@example.org"})]


async def test_hooks_are_called_until_they_succeed_and_then_it_is_acknowledged(
    tmp_path: Path, coordinator: PaperCoordinator
) -> None:
    for number, kind, what in ((1, pb.DECISION_KIND_COMMIT, "commit"), (2, pb.DECISION_KIND_ABORT, "abort")):
        told = Told(failures=2)
        async with mail(told, tmp_path, coordinator):
            stream = await coordinator.welcomed()
            await prepared(stream, number, SEND)
            decide(stream, number, kind)
            assert [await told.call() for _ in range(3)] == [(what, transaction(number), SENT)] * 3
            assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE


async def test_a_hook_that_had_not_succeeded_is_called_again_after_a_restart(
    tmp_path: Path, coordinator: PaperCoordinator
) -> None:
    told = Told(failures=1_000_000)
    async with mail(told, tmp_path, coordinator):
        stream = await coordinator.welcomed()
        await prepared(stream, 1, SEND)
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        await told.call()
    told = Told()
    async with mail(told, tmp_path, coordinator):
        stream = await coordinator.welcomed()
        decide(stream, 1, pb.DECISION_KIND_COMMIT)
        assert await told.call() == ("commit", transaction(1), SENT)
        assert (await stream.heard("acknowledgements")).kind == pb.ACKNOWLEDGEMENT_KIND_DONE


async def test_hooks_of_a_one_phase_commit(tmp_path: Path, coordinator: PaperCoordinator) -> None:
    told = Told()
    async with mail(told, tmp_path, coordinator):
        stream = await coordinator.welcomed()
        prepare(stream, 1, SEND, one_phase=True)
        vote = await stream.heard("votes")
        assert (vote.kind, decode_results(vote.results)) == (pb.VOTE_KIND_COMMITTED, [transaction(1)])
        assert await told.call() == ("commit", transaction(1), SENT)
