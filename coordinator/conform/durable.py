"""Cases of durability: the participant is killed at the very moment at which something must be durable."""

from __future__ import annotations

from coordinator.conform.case import READS, RESTART, Broken, case, expect
from coordinator.conform.peer import ABORT, COMMIT, COMMITTED, NO, Branch, Peer, told
from troth.v1 import participant_pb2

PREPARED = participant_pb2.BRANCH_STATE_PREPARED


@case("durable.incarnation", RESTART)
async def incarnation(peer: Peer) -> None:
    """The incarnation grows at each start, and is durable before Hello; the log_id never changes."""
    for _ in range(2):
        before = peer.hello
        await peer.restart()
        expect(peer.hello.log_id == before.log_id, "the log_id changed with a restart")
        expect(peer.hello.participant == before.participant, "the name changed with a restart")
        expect(peer.hello.incarnation > before.incarnation, f"incarnation {before.incarnation} became {peer.hello.incarnation}")


@case("durable.yes", RESTART)
async def yes(peer: Peer) -> None:
    """PREPARED, with order and results, is durable before the vote YES."""
    branch = peer.branch()
    vote = await branch.prepared()
    await peer.restart()
    report = _listed(peer, branch)
    expect(report.state == PREPARED, f"after a restart the branch that voted YES is {told(report)}")
    expect((report.order, report.results) == (branch.order, vote.results), "its order or its results are others")
    expect((await branch.prepare()).results == vote.results, "a repeated Prepare got other results")
    await branch.acknowledged(COMMIT, "DONE")


@case("durable.redo-and-undo", RESTART, READS)
async def redo_and_undo(peer: Peer) -> None:
    """With PREPARED, all that is needed to commit and to undo is durable."""
    undone, done, plain = peer.branch(), peer.branch(), peer.branch()
    before = await peer.look(undone)
    await plain.prepare(one_phase=True)
    for branch in (undone, done):
        await branch.prepared()
    await peer.restart()
    await undone.acknowledged(ABORT, "DONE")
    await done.acknowledged(COMMIT, "DONE")
    expect(await peer.look(undone) == before, "rolled back after a restart, the work is still there")
    expect(await peer.look(done) == await peer.look(plain), "committed after a restart, the work is not there, or twice")


@case("durable.locks", RESTART, READS)
async def locks(peer: Peer) -> None:
    """The locks of PREPARED branches are taken again before anything else runs."""
    branch, other = peer.branch(), peer.branch()
    other.number = branch.number
    before = await peer.look(branch)
    await branch.prepared()
    await peer.restart()
    vote = await other.prepare(timeout_ms=500)
    expect(vote.kind == NO, f"after a restart, work on what a PREPARED branch changed was voted {told(vote)}")
    await branch.acknowledged(ABORT, "DONE")
    expect(await peer.look(branch) == before, "rolled back after a restart, the work is still there")


@case("durable.commit", RESTART)
async def commit(peer: Peer) -> None:
    """The outcome is durable before the acknowledgement of COMMIT."""
    branch = await peer.committed()
    await peer.restart()
    expect(branch.transaction_id not in peer.reports, "after DONE and a restart the branch is listed as unfinished")
    await branch.acknowledged(COMMIT, "DONE")


@case("durable.commit-is-done", RESTART, READS)
async def commit_is_done(peer: Peer) -> None:
    """What was acknowledged is there after a restart, once."""
    branch, plain = await peer.committed(), peer.branch()
    await plain.prepare(one_phase=True)
    await peer.restart()
    expect(await peer.look(branch) == await peer.look(plain), "after a restart the work is not there, or twice")


@case("durable.abort", RESTART)
async def abort(peer: Peer) -> None:
    """A rollback is durable before its acknowledgement."""
    branch = peer.branch()
    await branch.prepared()
    await branch.acknowledged(ABORT, "DONE")
    await peer.restart()
    expect(branch.transaction_id not in peer.reports, "after DONE and a restart the branch is listed as unfinished")
    await branch.settled("ROLLED_BACK")


@case("durable.one-phase", RESTART)
async def one_phase(peer: Peer) -> None:
    """Work, outcome and results are durable before the vote COMMITTED, and Hello lists them."""
    branch = peer.branch()
    vote = await branch.prepare(one_phase=True)
    expect(vote.kind == COMMITTED, f"a one-phase commit was voted {told(vote)}")
    await peer.restart()
    report = _listed(peer, branch)
    expect(told(report) == "COMMITTED", f"after a restart it is {told(report)}")
    expect(report.results == vote.results, "its results are others")
    await branch.settled("COMMITTED")
    expect((await branch.prepare(one_phase=True)).results == vote.results, "a repeated Prepare got other results")


@case("durable.settlement", RESTART)
async def settlement(peer: Peer) -> None:
    """The tombstone is durable before ROLLED_BACK: the branch never commits."""
    branches = [peer.branch() for _ in range(2)]
    for branch in branches:
        await branch.settled("ROLLED_BACK")
    await peer.restart()
    for branch, in_one_phase in zip(branches, (False, True), strict=True):
        vote = await branch.prepare(one_phase=in_one_phase)
        expect(vote.kind == NO, f"after ROLLED_BACK and a restart its work was voted {told(vote)}")
        await branch.settled("ROLLED_BACK")


@case("durable.in-doubt", RESTART)
async def in_doubt(peer: Peer) -> None:
    """A branch in doubt still asks after a restart."""
    branch = peer.branch()
    await branch.prepared()
    await peer.restart()
    inquiry = await peer.heard("inquiries", branch.transaction_id)
    expect(inquiry.state == PREPARED, f"the question says state {inquiry.state}")
    await branch.acknowledged(COMMIT, "DONE")


def _listed(peer: Peer, branch: Branch) -> participant_pb2.BranchReport:
    report = peer.reports.get(branch.transaction_id)
    if report is None:
        raise Broken("after a restart the branch is not listed")
    return report
