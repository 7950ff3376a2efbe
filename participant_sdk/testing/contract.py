"""The contract of resources (`participant_sdk.resources.contract.Resource`) as a pytest suite.

Subclass `ResourceContract` in a test module, and give it a fixture `workbench`:

    from participant_sdk.testing.contract import ResourceContract, Workbench

    class TestMyResource(ResourceContract):
        @pytest.fixture
        def workbench(self, tmp_path) -> Workbench:
            return MyWorkbench(tmp_path)

Each test is one promise, and its docstring says which. They need pytest-asyncio with `asyncio_mode = "auto"`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from participant_sdk.registry import Registry
from participant_sdk.resources.contract import (
    Begun,
    BranchOutcome,
    Done,
    InDoubt,
    Known,
    Performed,
    Prepared,
    Refused,
    Resource,
    Unreachable,
)
from troth.v1 import common_pb2, record_pb2
from troth.values import encode_arguments

PARTICIPANT = "contract"
FIRST = "c1.1.0011223344556677.1.1"
LONGER = "c1.1.0011223344556677.1.10"
"""An id of which `FIRST` is a prefix."""
OPENING_TRIES = 200
"""Of a resource that is away; twenty to a second."""


class Workbench(Protocol):
    """What the suite needs of the author: a store that outlives resources, and three operations on it."""

    def resource(self) -> Resource:
        """A new resource object on the same store, not opened yet, as after a restart of the process."""

    def register(self, registry: Registry) -> None:
        """Register `put(..., *, name: str, value: int) -> None`, which changes something; `get(..., *, name: str) -> int | None`,
        which changes nothing; and `refuse(..., *, name: str, value: int) -> None`, which puts and then raises `Refuse`."""

    async def crash(self, resource: Resource) -> None:
        """Let the process of this resource die: its connections go, and it is not asked to close."""

    async def visible(self, name: str) -> int | None:
        """What everybody else sees under a name, past the resource."""


def operation(name: str, /, **arguments: object) -> common_pb2.Operation:
    """An operation as it travels."""
    return common_pb2.Operation(name=name, arguments=encode_arguments(arguments))


class Bench:
    """The workbench with shorter words; gives each step's answer, checked to be of the right kind."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self.resource = workbench.resource()
        self.visible = workbench.visible

    async def open(self, participant: str = PARTICIPANT) -> None:
        """Bind and open the resource. One that is away, or whose earlier process is still being ended, is asked again, as by the
        driver."""
        registry = Registry(async_reason=self.resource.async_reason)
        self._workbench.register(registry)
        self.resource.bind(participant, registry)
        for _ in range(OPENING_TRIES):
            answer = await self.resource.open()
            if not isinstance(answer, Unreachable):
                break
            await asyncio.sleep(0.05)
        assert isinstance(answer, Done), answer

    async def crash(self) -> None:
        """Let the process die, and begin another one."""
        await self._workbench.crash(self.resource)
        self.resource = self._workbench.resource()
        await self.open()

    async def begin(self, transaction_id: str = FIRST) -> str:
        """Begin a branch; returns the resource's name of it."""
        begun = await self.resource.begin(transaction_id)
        assert isinstance(begun, Begun)
        return begun.resource_branch

    async def put(self, branch: str, name: str, value: int) -> None:
        """Change something in a branch."""
        performed = await self.resource.execute(branch, operation("put", name=name, value=value))
        assert isinstance(performed, Performed), performed

    async def prepare(self, branch: str) -> record_pb2.BranchWork:
        """Prepare a branch that has changed something; returns what the log would keep of it."""
        prepared = await self.resource.prepare(branch)
        assert isinstance(prepared, Prepared) and prepared.changed, prepared
        return record_pb2.BranchWork(resource_branch=branch, undo=prepared.undo, rows=prepared.rows)

    async def prepared(self, transaction_id: str = FIRST, name: str = "a") -> tuple[str, record_pb2.BranchWork]:
        """A branch that has put 1 under a name and is prepared."""
        branch = await self.begin(transaction_id)
        await self.put(branch, name, 1)
        return branch, await self.prepare(branch)

    async def in_doubt(self) -> list[str]:
        """The branches that the resource holds prepared."""
        answer = await self.resource.in_doubt()
        assert isinstance(answer, InDoubt)
        return sorted(answer.resource_branches)

    async def outcome(self, branch: str) -> BranchOutcome:
        """What became of a branch."""
        answer = await self.resource.outcome(branch)
        assert isinstance(answer, Known), answer
        return answer.outcome


class ResourceContract:
    """The suite. Needs the fixture `workbench`."""

    @pytest.fixture
    async def bench(self, workbench: Workbench) -> AsyncIterator[Bench]:
        """An open resource."""
        bench = Bench(workbench)
        await bench.open()
        yield bench
        await bench.resource.close()

    # ---- finishing

    async def test_committed_work_is_seen(self, bench: Bench) -> None:
        """begin, execute, prepare, commit: the work is there for everybody, and not before the commit."""
        branch, work = await bench.prepared()
        assert await bench.visible("a") is None
        assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
        assert await bench.visible("a") == 1

    async def test_results_are_returned(self, bench: Bench) -> None:
        """An operation's result comes back, and it sees what the branch did before."""
        branch = await bench.begin()
        await bench.put(branch, "a", 7)
        assert await bench.resource.execute(branch, operation("get", name="a")) == Performed(7)
        await bench.resource.rollback(branch, record_pb2.BranchWork())

    async def test_work_that_was_rolled_back_is_gone(self, bench: Bench) -> None:
        """A branch can be rolled back before and after it was prepared."""
        for state in ("active", "prepared"):
            branch = await bench.begin(f"c1.1.0011223344556677.2.{len(state)}")
            await bench.put(branch, "a", 1)
            work = record_pb2.BranchWork() if state == "active" else await bench.prepare(branch)
            assert isinstance(await bench.resource.rollback(branch, work), Done)
            assert await bench.visible("a") is None

    async def test_a_one_phase_commit_needs_no_prepare(self, bench: Bench) -> None:
        """commit with one_phase finishes an active branch."""
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        done = await bench.resource.commit(branch, record_pb2.BranchWork(resource_branch=branch), one_phase=True)
        assert isinstance(done, Done)
        assert await bench.visible("a") == 1

    async def test_finishing_can_be_repeated(self, bench: Bench) -> None:
        """A commit or rollback whose answer was lost is asked again, and says the same."""
        first, first_work = await bench.prepared(FIRST, "a")
        second, second_work = await bench.prepared(LONGER, "b")
        for _ in range(2):
            assert isinstance(await bench.resource.commit(first, first_work, one_phase=False), Done)
            assert isinstance(await bench.resource.rollback(second, second_work), Done)
        assert (await bench.visible("a"), await bench.visible("b")) == (1, None)

    async def test_rolling_back_what_does_not_exist_succeeds(self, bench: Bench) -> None:
        """A branch that was never prepared needs no memory."""
        branch = await bench.begin()
        await bench.resource.rollback(branch, record_pb2.BranchWork())
        assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)

    async def test_branches_are_independent(self, bench: Bench) -> None:
        """Also those one of whose ids is a prefix of the other."""
        first, first_work = await bench.prepared(FIRST, "a")
        longer, longer_work = await bench.prepared(LONGER, "b")
        assert first != longer
        assert await bench.in_doubt() == sorted([first, longer])
        assert isinstance(await bench.resource.rollback(first, first_work), Done)
        assert await bench.in_doubt() == [longer]
        assert isinstance(await bench.resource.commit(longer, longer_work, one_phase=False), Done)
        assert (await bench.visible("a"), await bench.visible("b")) == (None, 1)

    async def test_a_branch_that_changed_nothing_says_so(self, bench: Bench) -> None:
        """It is over with its prepare."""
        branch = await bench.begin()
        await bench.resource.execute(branch, operation("get", name="a"))
        prepared = await bench.resource.prepare(branch)
        assert isinstance(prepared, Prepared) and not prepared.changed, "a marker row is no change: write none for a reader"
        assert await bench.in_doubt() == []
        assert await bench.outcome(branch) is not BranchOutcome.COMMITTED

    # ---- refusing

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            (operation("refuse", name="a", value=1), "REFUSED"),
            (operation("nothing"), "UNKNOWN_OPERATION"),
            (operation("put", name="a"), "BAD_ARGUMENTS"),
        ],
    )
    async def test_a_refusal_is_an_answer(self, bench: Bench, call: common_pb2.Operation, reason: str) -> None:
        """It is no exception, it has a cause, and nothing of the branch is left once it is rolled back."""
        branch = await bench.begin()
        await bench.put(branch, "b", 1)
        refused = await bench.resource.execute(branch, call)
        assert isinstance(refused, Refused) and refused.cause.reason == reason
        assert isinstance(await bench.resource.rollback(branch, record_pb2.BranchWork()), Done)
        assert (await bench.visible("a"), await bench.visible("b")) == (None, None)

    # ---- crashes

    async def test_prepared_work_survives_a_crash(self, bench: Bench) -> None:
        """It is listed afterwards, unseen by others, and can be finished either way."""
        first, first_work = await bench.prepared(FIRST, "a")
        second, second_work = await bench.prepared(LONGER, "b")
        await bench.crash()
        assert await bench.in_doubt() == sorted([first, second])
        assert await bench.visible("a") is None
        assert isinstance(await bench.resource.commit(first, first_work, one_phase=False), Done)
        assert isinstance(await bench.resource.rollback(second, second_work), Done)
        assert (await bench.visible("a"), await bench.visible("b")) == (1, None)

    async def test_unprepared_work_does_not_survive_a_crash(self, bench: Bench) -> None:
        """It holds nothing up either: the same thing can be changed at once."""
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        await bench.crash()
        assert await bench.in_doubt() == []
        assert await bench.visible("a") is None
        again, work = await bench.prepared(LONGER, "a")
        assert isinstance(await bench.resource.commit(again, work, one_phase=False), Done)

    async def test_a_commit_is_durable_and_proven(self, bench: Bench) -> None:
        """After a crash between the commit and its record, `outcome` tells, and the repeat is `Done`."""
        branch, work = await bench.prepared()
        await bench.resource.commit(branch, work, one_phase=False)
        await bench.crash()
        assert await bench.outcome(branch) is BranchOutcome.COMMITTED
        assert isinstance(await bench.resource.commit(branch, work, one_phase=False), Done)
        assert await bench.visible("a") == 1

    async def test_a_one_phase_commit_is_durable_and_proven(self, bench: Bench) -> None:
        """Its reply may be lost: the repeat is `Done` and does nothing, and `outcome` tells, also after a crash."""
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        work = record_pb2.BranchWork(resource_branch=branch)
        for _ in range(2):
            assert isinstance(await bench.resource.commit(branch, work, one_phase=True), Done)
        await bench.crash()
        assert await bench.outcome(branch) is BranchOutcome.COMMITTED
        assert isinstance(await bench.resource.commit(branch, work, one_phase=True), Done)
        assert await bench.visible("a") == 1

    async def test_a_commit_that_never_began_is_not_proven(self, bench: Bench) -> None:
        """Work whose process died before its prepare: a proof that was written too early would say COMMITTED."""
        branch = await bench.begin()
        await bench.put(branch, "a", 1)
        await bench.crash()
        assert await bench.outcome(branch) in (BranchOutcome.ROLLED_BACK, BranchOutcome.NEVER_SEEN)

    # ---- asking

    async def test_outcomes_are_told(self, bench: Bench) -> None:
        """prepared; then committed; and a rolled-back branch is never taken for a committed one."""
        first, first_work = await bench.prepared(FIRST, "a")
        assert await bench.outcome(first) is BranchOutcome.PREPARED
        await bench.resource.commit(first, first_work, one_phase=False)
        assert await bench.outcome(first) is BranchOutcome.COMMITTED
        second, second_work = await bench.prepared(LONGER, "b")
        await bench.resource.rollback(second, second_work)
        assert await bench.outcome(second) in (BranchOutcome.ROLLED_BACK, BranchOutcome.NEVER_SEEN)

    async def test_a_finished_branch_can_be_forgotten(self, bench: Bench) -> None:
        """Again and again."""
        branch, work = await bench.prepared()
        await bench.resource.commit(branch, work, one_phase=False)
        for _ in range(2):
            assert isinstance(await bench.resource.forget(branch), Done)
        assert await bench.visible("a") == 1

    async def test_branches_of_others_are_not_listed(self, bench: Bench, workbench: Workbench) -> None:
        """Two participants on one server do not see each other's branches."""
        branch, work = await bench.prepared()
        other: Any = Bench(workbench)
        await other.open(f"{PARTICIPANT}-2")
        assert await other.in_doubt() == []
        await other.resource.close()
        assert await bench.in_doubt() == [branch]
        assert isinstance(await bench.resource.rollback(branch, work), Done)
