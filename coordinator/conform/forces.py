"""Cases of an operator's orders: what was forced stands, and is told."""

from __future__ import annotations

from coordinator.conform.case import READS, RESTART, Broken, case, expect
from coordinator.conform.peer import ABORT, COMMIT, NO, Branch, Peer, told
from troth.v1 import participant_pb2

FORCE_COMMIT = participant_pb2.FORCE_KIND_COMMIT
FORCE_ABORT = participant_pb2.FORCE_KIND_ABORT
FORGET = participant_pb2.FORCE_KIND_FORGET


def _names(message: participant_pb2.Acknowledgement | participant_pb2.BranchReport) -> None:
    expect("conform" in message.detail, f"detail does not say who: {message.detail!r}")
    expect("a case of troth conform" in message.detail, f"detail does not say why: {message.detail!r}")


@case("force.commit")
async def commit(peer: Peer) -> None:
    """A branch in doubt that an operator committed is FORCED_COMMIT, with who and why; against ABORT it stands."""
    branch = peer.branch()
    await branch.prepared()
    _names(await branch.forced(FORCE_COMMIT, "FORCED_COMMIT"))
    _names(await branch.acknowledged(ABORT, "FORCED_COMMIT"))
    await branch.forced(FORGET, "DONE")


@case("force.abort")
async def abort(peer: Peer) -> None:
    """A branch in doubt that an operator rolled back is FORCED_ABORT, with who and why; against COMMIT it stands."""
    branch = peer.branch()
    await branch.prepared()
    _names(await branch.forced(FORCE_ABORT, "FORCED_ABORT"))
    _names(await branch.acknowledged(COMMIT, "FORCED_ABORT"))
    vote = await branch.prepare()
    expect(vote.kind == NO, f"a branch that was forced to roll back was voted {told(vote)}")
    await branch.forced(FORGET, "DONE")


@case("force.does", READS)
async def does(peer: Peer) -> None:
    """What an operator ordered is done."""
    back, on = peer.branch(), peer.branch()
    before_back, before_on = await peer.look(back), await peer.look(on)
    await back.prepared()
    await back.forced(FORCE_ABORT, "FORCED_ABORT")
    expect(await peer.look(back) == before_back, "forced to roll back, the work is still there")
    await on.prepared()
    await on.forced(FORCE_COMMIT, "FORCED_COMMIT")
    expect(await peer.look(on) != before_on, "forced to commit, the work is not there")
    for branch in (back, on):
        await branch.forced(FORGET, "DONE")


@case("force.agrees")
async def agrees(peer: Peer) -> None:
    """When the decision agrees with the operator, the branch is an ordinary one from then on."""
    on, back = peer.branch(), peer.branch()
    await on.prepared()
    await on.forced(FORCE_COMMIT, "FORCED_COMMIT")
    await on.acknowledged(COMMIT, "DONE")
    await on.acknowledged(COMMIT, "DONE")
    await back.prepared()
    await back.forced(FORCE_ABORT, "FORCED_ABORT")
    await back.acknowledged(ABORT, "DONE")
    await peer.reconnect()
    listed = peer.reports.keys() & {on.transaction_id, back.transaction_id}
    expect(not listed, "it is listed as forced although the decision agreed")
    await on.settled("COMMITTED")


@case("force.durable", RESTART)
async def durable(peer: Peer) -> None:
    """An operator's order is durable before it is acknowledged, with who and why, and Hello lists it."""
    wanted = {FORCE_COMMIT: "FORCED_COMMIT", FORCE_ABORT: "FORCED_ABORT"}
    for kind, state in wanted.items():
        branch = peer.branch()
        await branch.prepared()
        await branch.forced(kind, state)
        await peer.restart()
        report = peer.reports.get(branch.transaction_id)
        if report is None:
            raise Broken(f"after a restart the {state} branch is not listed")
        expect(told(report) == state, f"it is listed as {told(report)}")
        _names(report)
        await branch.forced(FORGET, "DONE")
        await peer.reconnect()
        expect(branch.transaction_id not in peer.reports, "it is listed after it was forgotten")


async def _proves_nothing(branch: Branch) -> None:
    branch.peer.say(settles=[branch.settle_message()])
    message = await branch.acknowledgement()
    expect(told(message) == "FORCED_COMMIT", f"RollbackIfUnseen was acknowledged {told(message)}")
    _names(message)


@case("force.forgotten")
async def forgotten(peer: Peer) -> None:
    """A commit by order that its operator has forgotten stays FORCED_COMMIT to RollbackIfUnseen, ABORT and orders: no proof."""
    branch = peer.branch()
    await branch.prepared()
    await branch.forced(FORCE_COMMIT, "FORCED_COMMIT")
    await branch.forced(FORGET, "DONE")
    await _proves_nothing(branch)
    await branch.acknowledged(ABORT, "FORCED_COMMIT")
    await branch.forced(FORCE_ABORT, "FORCED_COMMIT")
    await branch.forced(FORGET, "DONE")
    await branch.acknowledged(COMMIT, "DONE")
    await peer.reconnect()
    expect(branch.transaction_id not in peer.reports, "it is listed after it was forgotten")


@case("force.forgotten-durable", RESTART)
async def forgotten_durable(peer: Peer) -> None:
    """That a commit was by order is remembered with it, when the operator has forgotten that, and after a restart."""
    branch = peer.branch()
    await branch.prepared()
    await branch.forced(FORCE_COMMIT, "FORCED_COMMIT")
    await branch.forced(FORGET, "DONE")
    await peer.restart()
    await _proves_nothing(branch)


@case("force.forget-prepared")
async def forget_prepared(peer: Peer) -> None:
    """What is in doubt cannot be forgotten: FORGET of a PREPARED branch is a protocol error, and it stays PREPARED."""
    branch = peer.branch()
    await branch.prepared()
    peer.say(forces=[participant_pb2.Force(transaction_id=branch.transaction_id, kind=FORGET, who="conform", why="a case")])
    await branch.is_silent("FORGET of a PREPARED branch")
    if not peer.is_connected:
        await peer.connect()
    await branch.settled("PREPARED")
    await branch.acknowledged(COMMIT, "DONE")
