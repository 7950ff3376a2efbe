"""The contract suite passes for a resource that keeps the contract, and finds one that does not."""

from __future__ import annotations

import pytest
from ledger import LedgerResource, LedgerWorkbench

from participant_sdk.resources.contract import Begun, Broken, Done, Refused, Resource, Unreachable
from participant_sdk.testing.contract import Bench, ResourceContract, Workbench
from troth.v1 import record_pb2


class TestLedger(ResourceContract):
    @pytest.fixture
    def workbench(self) -> Workbench:
        return LedgerWorkbench()


class Forgetful(LedgerResource):
    """Says Done to whatever is committed: success is made up for a branch that it does not know."""

    async def commit(self, resource_branch: str, work: record_pb2.BranchWork, *, one_phase: bool) -> Done:
        return Done()


class ForgetfulWorkbench(LedgerWorkbench):
    def resource(self) -> Resource:
        return Forgetful(self.store)


class MarksReaders(LedgerResource):
    """Writes its marker row into each branch, and takes that for a change."""

    async def begin(self, transaction_id: str) -> Begun | Refused | Unreachable:
        begun = await super().begin(transaction_id)
        assert isinstance(begun, Begun)
        self._views[begun.resource_branch].changes["marker"] = 1
        return begun


class MarksReadersWorkbench(LedgerWorkbench):
    def resource(self) -> Resource:
        return MarksReaders(self.store)


class ProvesTooEarly(LedgerResource):
    """Writes its marker row outside of the branch, when it begins."""

    async def begin(self, transaction_id: str) -> Begun | Refused | Unreachable:
        begun = await super().begin(transaction_id)
        assert isinstance(begun, Begun)
        self.store.committed.add(begun.resource_branch)
        return begun


class ProvesTooEarlyWorkbench(LedgerWorkbench):
    def resource(self) -> Resource:
        return ProvesTooEarly(self.store)


class ForgetsOnePhase(LedgerResource):
    """Keeps a proof of prepared branches only."""

    async def commit(
        self, resource_branch: str, work: record_pb2.BranchWork, *, one_phase: bool
    ) -> Done | Refused | Unreachable | Broken:
        done = await super().commit(resource_branch, work, one_phase=one_phase)
        if one_phase:
            self.store.committed.discard(resource_branch)
        return done


class ForgetsOnePhaseWorkbench(LedgerWorkbench):
    def resource(self) -> Resource:
        return ForgetsOnePhase(self.store)


@pytest.mark.parametrize(
    ("workbench", "promise"),
    [
        (MarksReadersWorkbench, "test_a_branch_that_changed_nothing_says_so"),
        (ProvesTooEarlyWorkbench, "test_a_commit_that_never_began_is_not_proven"),
        (ForgetsOnePhaseWorkbench, "test_a_one_phase_commit_is_durable_and_proven"),
    ],
)
async def test_the_suite_finds_a_marker_row_that_is_wrong(workbench: type[LedgerWorkbench], promise: str) -> None:
    bench = Bench(workbench())
    await bench.open()
    with pytest.raises(AssertionError):
        await getattr(ResourceContract(), promise)(bench)


async def test_the_suite_finds_a_commit_that_was_made_up() -> None:
    bench = Bench(ForgetfulWorkbench())
    await bench.open()
    with pytest.raises(AssertionError):
        await ResourceContract().test_committed_work_is_seen(bench)
