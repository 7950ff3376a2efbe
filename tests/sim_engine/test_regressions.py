"""What this level of the simulator found in the product, each as one small story."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from participant_sdk import LogBranch, LogResource, Participant
from participant_sdk.resources.log_only import LoggedOperation
from participant_sdk.testing.cluster import Cluster


async def test_a_hook_is_told_each_interactive_operation_once(tmp_path: Path) -> None:
    """Seed 11: PrepareBranch was answered with the work of all calls, and that was added to the work of all calls."""
    told: list[list[str]] = []

    def make() -> Participant:
        def deliver(transaction_id: str, operations: Sequence[LoggedOperation]) -> None:
            told.append([one.arguments["to"] for one in operations])

        resource = LogResource(on_commit=deliver)
        participant = Participant("mail", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:7420")

        @participant.operation(locks=[])
        def send(branch: LogBranch, *, to: str) -> None:
            """Sent on commit."""

        return participant

    async with Cluster(make) as cluster, cluster.transaction() as tx:
        for to in ("ann", "bob"):
            with tx.call():
                await cluster["mail"].branch().run("send", to=to)
    assert told == [["ann", "bob"]]
