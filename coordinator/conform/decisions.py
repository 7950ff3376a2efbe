"""Cases of decisions: every cell of the table, for COMMIT and for ABORT, and the questions of who is in doubt."""

from __future__ import annotations

from coordinator.conform.case import READS, case, expect
from coordinator.conform.peer import ABORT, COMMIT, NO, YES, Peer, told
from troth.v1 import participant_pb2

UNSPECIFIED = participant_pb2.DECISION_KIND_UNSPECIFIED
ASKS_WITHIN_SECONDS = 30.0
"""How long who is in doubt may wait before it asks once more: the cap of protos/README.md. The first time it asks sooner."""


@case("commit.prepared")
async def commit_prepared(peer: Peer) -> None:
    """COMMIT of a PREPARED branch is acknowledged DONE, and again when it is repeated."""
    branch = await peer.committed()
    for _ in range(2):
        await branch.acknowledged(COMMIT, "DONE")


@case("commit.is-done", READS)
async def commit_is_done(peer: Peer) -> None:
    """After COMMIT the work is there."""
    branch = peer.branch()
    before = await peer.look(branch)
    await branch.prepared()
    await branch.acknowledged(COMMIT, "DONE")
    expect(await peer.look(branch) != before, "after DONE a read sees nothing of the work")


@case("commit.unseen")
async def commit_unseen(peer: Peer) -> None:
    """COMMIT of a branch never seen is HAZARD, never DONE."""
    await peer.branch().acknowledged(COMMIT, "HAZARD")


@case("commit.rolled-back")
async def commit_rolled_back(peer: Peer) -> None:
    """COMMIT of a branch that was rolled back is HAZARD."""
    branch = peer.branch()
    await branch.prepared()
    await branch.acknowledged(ABORT, "DONE")
    await branch.acknowledged(COMMIT, "HAZARD")


@case("commit.one-phase")
async def commit_one_phase(peer: Peer) -> None:
    """COMMIT of a branch that was committed in one phase is DONE."""
    branch = peer.branch()
    await branch.prepare(one_phase=True)
    await branch.acknowledged(COMMIT, "DONE")


@case("commit.read-only", READS)
async def commit_read_only(peer: Peer) -> None:
    """COMMIT and ABORT of a branch that was READ_ONLY are DONE."""
    assert peer.operations.reads is not None
    for kind in (COMMIT, ABORT):
        branch = peer.branch()
        await branch.prepare(peer.operations.reads)
        await branch.acknowledged(kind, "DONE")


@case("abort.prepared")
async def abort_prepared(peer: Peer) -> None:
    """ABORT of a PREPARED branch is acknowledged DONE when that is asked for, and again when it is repeated."""
    branch = peer.branch()
    await branch.prepared()
    for _ in range(3):
        await branch.acknowledged(ABORT, "DONE")


@case("abort.unasked")
async def abort_unasked(peer: Peer) -> None:
    """ABORT is not acknowledged when that is not asked for, and done all the same."""
    branch = peer.branch()
    await branch.prepared()
    peer.say(decisions=[branch.decision_message(ABORT, asked=False)])
    await branch.is_silent("ABORT asked for no acknowledgement")
    await branch.settled("ROLLED_BACK")


@case("abort.is-undone", READS)
async def abort_is_undone(peer: Peer) -> None:
    """After ABORT the work is undone, and others can do theirs."""
    branch = peer.branch()
    before = await peer.look(branch)
    await branch.prepared()
    await branch.acknowledged(ABORT, "DONE")
    expect(await peer.look(branch) == before, "after ABORT a read sees the work")
    later = peer.branch()
    later.number = branch.number
    await later.prepared()
    await later.acknowledged(COMMIT, "DONE")


@case("abort.unseen")
async def abort_unseen(peer: Peer) -> None:
    """ABORT of a branch never seen succeeds, is remembered, and is acknowledged DONE when that is asked for."""
    branch = peer.branch()
    for _ in range(2):
        await branch.acknowledged(ABORT, "DONE")
    vote = await branch.prepare()
    expect(vote.kind == NO, f"its late work was voted {told(vote)}")


@case("abort.committed")
async def abort_committed(peer: Peer) -> None:
    """ABORT of a committed branch changes nothing, and is HAZARD when an acknowledgement is asked for."""
    branch = await peer.committed()
    await branch.acknowledged(ABORT, "HAZARD")
    await branch.acknowledged(COMMIT, "DONE")
    single = peer.branch()
    await single.prepare(one_phase=True)
    await single.acknowledged(ABORT, "HAZARD")


@case("abort.crosses-the-vote")
async def abort_crosses_the_vote(peer: Peer) -> None:
    """An ABORT that crosses the vote wins: the branch ends rolled back, and never commits."""
    for _ in range(5):
        branch = peer.branch()
        peer.say(prepares=[branch.prepare_message()])
        peer.say(decisions=[branch.decision_message(ABORT)])
        acknowledgement = await branch.acknowledgement()
        expect(told(acknowledgement) == "DONE", f"the ABORT was acknowledged {told(acknowledgement)}")
        again = await branch.prepare()
        if again.kind == YES:  # the vote of before, which was on its way
            again = await branch.vote()
        expect(again.kind == NO, f"after the ABORT it was voted {told(again)}")
        await branch.settled("ROLLED_BACK")


@case("decision.unknown-kind")
async def unknown_kind(peer: Peer) -> None:
    """What the protocol does not have changes nothing: a PREPARED branch stays so."""
    branch = peer.branch()
    await branch.prepared()
    peer.say(decisions=[branch.decision_message(UNSPECIFIED)])
    await branch.is_silent("a decision was of no kind")
    if not peer.is_connected:
        await peer.connect()
    await branch.settled("PREPARED")
    await branch.acknowledged(COMMIT, "DONE")


@case("inquiry.asks")
async def asks(peer: Peer) -> None:
    """A branch in doubt asks now and then, and draws no conclusion from silence."""
    branch = peer.branch()
    await branch.prepared()
    for patience_seconds in (peer.patience_seconds, max(peer.patience_seconds, ASKS_WITHIN_SECONDS)):
        inquiry = await peer.heard("inquiries", branch.transaction_id, patience_seconds)
        expect(inquiry.state == participant_pb2.BRANCH_STATE_PREPARED, f"the question says state {inquiry.state}")
        expect(inquiry.order == branch.order, f"the question says order {inquiry.order}, not {branch.order}")
    await branch.settled("PREPARED")
    await branch.acknowledged(COMMIT, "DONE")


@case("decision.independent")
async def independent(peer: Peer) -> None:
    """Branches are finished independently: one in doubt holds up no other."""
    stuck = peer.branch()
    await stuck.prepared()
    for _ in range(5):
        await peer.committed()
    await stuck.acknowledged(ABORT, "DONE")
