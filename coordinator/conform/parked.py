"""Cases of a branch that cannot be finished (PARKED): its rollback fails, and everything waits for an operator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.conform.case import PARKS, RESTART, Case, add, expect
from coordinator.conform.peer import ABORT, COMMIT, COMMITTED, Branch, Peer, told
from troth.v1 import participant_pb2

COMMIT_IT, ABORT_IT, FORGET_IT = (
    participant_pb2.FORCE_KIND_COMMIT, participant_pb2.FORCE_KIND_ABORT, participant_pb2.FORCE_KIND_FORGET,
)  # fmt: skip


async def park(peer: Peer) -> Branch:
    """A branch whose ABORT was acknowledged HAZARD, with what is wrong."""
    branch = peer.branch()
    await branch.prepared(peer.operations.parks[0])
    for hindrance in peer.operations.parks[1:]:
        other = peer.branch()
        other.number = branch.number
        vote = await other.prepare(hindrance, one_phase=True)
        expect(vote.kind == COMMITTED, f"the second operation of --parks was voted {told(vote)}")
    message = await branch.acknowledged(ABORT, "HAZARD")
    expect(bool(message.detail), "the HAZARD has no detail")
    await peer.fence()
    peer.said("acknowledgements", branch.transaction_id).clear()  # it may be said once for ABORT, and once for what became of it
    return branch


async def _is_hazard(branch: Branch) -> None:
    message = await branch.acknowledgement()
    expect(told(message) == "HAZARD" and bool(message.detail), f"it was acknowledged {told(message)}, {message.detail!r}")


async def _prepare(peer: Peer, branch: Branch) -> None:
    peer.say(prepares=[branch.prepare_message(peer.operations.parks[0])])
    await _is_hazard(branch)
    expect(not peer.said("votes", branch.transaction_id), "it voted, too")


async def _commit(peer: Peer, branch: Branch) -> None:
    await branch.acknowledged(COMMIT, "HAZARD")


async def _abort(peer: Peer, branch: Branch) -> None:
    await branch.acknowledged(ABORT, "HAZARD")


async def _settle(peer: Peer, branch: Branch) -> None:
    peer.say(settles=[branch.settle_message()])
    await _is_hazard(branch)
    expect(not peer.said("settlements", branch.transaction_id), "a Settlement came, too")


async def _enlisted(peer: Peer, branch: Branch) -> None:
    peer.say(enlisted=[branch.enlisted()])


async def _lost(peer: Peer, branch: Branch) -> None:
    await peer.reconnect()
    _is_listed(peer, branch)


async def _restarted(peer: Peer, branch: Branch) -> None:
    await peer.restart()
    _is_listed(peer, branch)


def _is_listed(peer: Peer, branch: Branch) -> None:
    report = peer.reports.get(branch.transaction_id, participant_pb2.BranchReport())
    expect(told(report) == "HAZARD" and bool(report.detail), f"Hello lists it as {told(report)}, {report.detail!r}")


async def _force_abort(peer: Peer, branch: Branch) -> None:
    await branch.forced(ABORT_IT, "HAZARD")


async def _force_commit(peer: Peer, branch: Branch) -> None:
    await branch.forced(COMMIT_IT, "FORCED_COMMIT")


async def _forget(peer: Peer, branch: Branch) -> None:
    await branch.forced(FORGET_IT, "DONE")
    await branch.settled("ROLLED_BACK")


Try = Callable[[Peer, Branch], Awaitable[None]]


def _case(name: str, rule: str, attempt: Try, *needs: str) -> Case:
    async def run(peer: Peer) -> None:
        branch = await park(peer)
        await attempt(peer, branch)
        if attempt not in (_force_commit, _forget):
            await branch.acknowledged(ABORT, "HAZARD")
        await peer.committed()
        await branch.forced(FORGET_IT, "DONE")
        await peer.reconnect()
        expect(branch.transaction_id not in peer.reports, "after FORGET it is still listed")

    return Case(name, rule, run, frozenset({PARKS, *needs}))


for _name, _rule, _attempt in (
    ("prepare", "Prepare of a branch that cannot be finished gets no vote, but an Acknowledgement HAZARD, with detail", _prepare),
    ("commit", "COMMIT of a branch that cannot be finished is HAZARD, with detail", _commit),
    ("abort", "ABORT of a branch that cannot be finished is HAZARD, with detail, and everything else goes on", _abort),
    ("settle", "RollbackIfUnseen of a branch that cannot be finished is an Acknowledgement HAZARD, and no Settlement", _settle),
    ("enlisted", "Enlisted, late, changes nothing of a branch that cannot be finished", _enlisted),
    ("lost", "Hello lists a branch that cannot be finished as HAZARD, with detail", _lost),
    ("force-commit", "An operator's COMMIT ends a branch that could not be rolled back: FORCED_COMMIT", _force_commit),
    ("force-abort", "An operator's ABORT is tried again, and is HAZARD when that fails", _force_abort),
    ("force-forget", "After FORGET what could not be rolled back counts as rolled back, and is kept no longer", _forget),
):
    add(_case(f"cell.parked.{_name}", _rule, _attempt))
add(_case("durable.parked", "That a branch cannot be finished is durable before HAZARD is said, and stays so", _restarted, RESTART))
