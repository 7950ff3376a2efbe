"""Cases of RollbackIfUnseen: every row of its table, also against work that runs."""

from __future__ import annotations

from coordinator.conform.case import READS, case, expect
from coordinator.conform.peer import ABORT, COMMIT, COMMITTED, NO, YES, Branch, Peer, told


@case("settle.unseen")
async def unseen(peer: Peer) -> None:
    """A branch never seen is ROLLED_BACK, and so is every repeat; its late work is NO."""
    branch = peer.branch()
    for _ in range(2):
        await branch.settled("ROLLED_BACK")
    for one_phase in (False, True):
        vote = await branch.prepare(one_phase=one_phase)
        expect(vote.kind == NO, f"after ROLLED_BACK its work was voted {told(vote)}")


@case("settle.prepared")
async def prepared(peer: Peer) -> None:
    """A PREPARED branch is PREPARED, and stays so."""
    branch = peer.branch()
    await branch.prepared()
    for _ in range(2):
        await branch.settled("PREPARED")
    await branch.acknowledged(COMMIT, "DONE")


@case("settle.committed")
async def committed(peer: Peer) -> None:
    """A committed branch is COMMITTED; of one phase, with its results."""
    await (await peer.committed()).settled("COMMITTED")
    branch = peer.branch()
    vote = await branch.prepare(one_phase=True)
    for _ in range(2):
        settlement = await branch.settled("COMMITTED")
        expect(settlement.results == vote.results, "its results are not those of the vote")


@case("settle.rolled-back")
async def rolled_back(peer: Peer) -> None:
    """A branch that was rolled back is ROLLED_BACK."""
    branch = peer.branch()
    await branch.prepared()
    await branch.acknowledged(ABORT, "DONE")
    await branch.settled("ROLLED_BACK")


@case("settle.read-only", READS)
async def read_only(peer: Peer) -> None:
    """A READ_ONLY branch of one phase is COMMITTED; of two phases it is ROLLED_BACK from now on."""
    assert peer.operations.reads is not None
    branch = peer.branch()
    await branch.prepare(peer.operations.reads)
    await branch.settled("ROLLED_BACK")
    single = peer.branch()
    await single.prepare(peer.operations.reads, one_phase=True)
    await single.settled("COMMITTED")


@case("settle.running")
async def running(peer: Peer) -> None:
    """Asked while its Prepare runs, the answer is what its vote says, and what is true ever after."""
    for operation in (*[peer.operations.work] * 4, peer.operations.slowest):
        branch = peer.branch()
        peer.say(prepares=[branch.prepare_message(operation)])
        peer.say(settles=[branch.settle_message()])  # in a frame of its own: within one, what ends work comes first
        settlement = await peer.heard("settlements", branch.transaction_id)
        if told(settlement) == "PREPARED":
            expect((await branch.vote()).kind == YES, "it is PREPARED, and did not vote YES")
            await branch.settled("PREPARED")
            await branch.acknowledged(ABORT, "DONE")
        else:
            await _is_rolled_back(branch, told(settlement))


@case("settle.running-one-phase")
async def running_one_phase(peer: Peer) -> None:
    """Asked while its one-phase commit runs, the answer is one of both outcomes, and true ever after."""
    for operation in (*[peer.operations.work] * 4, peer.operations.slowest):
        branch = peer.branch()
        peer.say(prepares=[branch.prepare_message(operation, one_phase=True)])
        peer.say(settles=[branch.settle_message()])  # in a frame of its own: within one, what ends work comes first
        settlement = await peer.heard("settlements", branch.transaction_id)
        if told(settlement) == "COMMITTED":
            expect((await branch.vote()).kind == COMMITTED, "it is COMMITTED, and did not vote so")
            await branch.settled("COMMITTED")
        else:
            await _is_rolled_back(branch, told(settlement))


@case("settle.overtakes")
async def overtakes(peer: Peer) -> None:
    """RollbackIfUnseen before the Prepare, in another stream: the Prepare is NO."""
    branch = peer.branch()
    await branch.settled("ROLLED_BACK")
    await peer.reconnect()
    expect((await branch.prepare()).kind == NO, "the Prepare that came late was not voted NO")


async def _is_rolled_back(branch: Branch, settlement: str) -> None:
    expect(settlement == "ROLLED_BACK", f"it was answered {settlement}")
    expect((await branch.prepare()).kind == NO, "it is ROLLED_BACK, and was voted for all the same")
    await branch.settled("ROLLED_BACK")
