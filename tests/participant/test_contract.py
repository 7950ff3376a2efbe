"""The contract suite passes for a resource that keeps the contract, and finds one that does not."""

from __future__ import annotations

import pytest
from ledger import LedgerResource, LedgerWorkbench

from participant_sdk.resources.contract import Done, Resource
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


async def test_the_suite_finds_a_commit_that_was_made_up() -> None:
    bench = Bench(ForgetfulWorkbench())
    await bench.open()
    with pytest.raises(AssertionError):
        await ResourceContract().test_committed_work_is_seen(bench)
