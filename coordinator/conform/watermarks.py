"""Cases of the watermark: its edges, and that it comes after everything that is known."""

from __future__ import annotations

from coordinator.conform.case import RESTART, case, expect
from coordinator.conform.peer import ABORT, COMMIT, NO, YES, Peer, told


@case("watermark.edge")
async def edge(peer: Peer) -> None:
    """A branch that is unknown and whose order is below the watermark is EXPIRED; one at the watermark is not."""
    below, at = peer.branch(), peer.branch()
    await peer.move_watermark(at.order)
    await below.acknowledged(COMMIT, "EXPIRED")
    await below.acknowledged(ABORT, "EXPIRED")
    await below.settled("EXPIRED")
    vote = await below.prepare()
    expect((vote.kind, vote.cause.reason) == (NO, "EXPIRED"), f"below the watermark it was voted {told(vote)}")
    await at.acknowledged(COMMIT, "HAZARD")
    await at.prepared()
    await at.acknowledged(ABORT, "DONE")


@case("watermark.known-first")
async def known_first(peer: Peer) -> None:
    """A PREPARED branch is never EXPIRED, whatever the watermark says."""
    branch = peer.branch()
    await branch.prepared()
    await peer.move_watermark(branch.order + 1)
    vote = await branch.prepare()
    expect(vote.kind == YES, f"a PREPARED branch below the watermark was voted {told(vote)}")
    await branch.settled("PREPARED")
    await branch.acknowledged(COMMIT, "DONE")


@case("watermark.earlier-epochs")
async def earlier_epochs(peer: Peer) -> None:
    """A watermark covers all orders of earlier epochs, and none of its own epoch but the lower ones."""
    early = peer.branch(epoch=peer.epoch - 1, order=2**40)
    own = peer.branch()
    await peer.move_watermark(1)
    await early.acknowledged(COMMIT, "EXPIRED")
    await early.settled("EXPIRED")
    await own.acknowledged(COMMIT, "HAZARD")


@case("watermark.never-back")
async def never_back(peer: Peer) -> None:
    """A lower watermark, and (0, 0), take nothing back."""
    branch = peer.branch()
    await peer.move_watermark(branch.order + 1)
    for epoch, below in ((peer.epoch, 1), (peer.epoch - 1, 2**40)):
        await peer.move_watermark(below, epoch=epoch)
        await branch.acknowledged(COMMIT, "EXPIRED")
    await peer.reconnect()
    await branch.acknowledged(COMMIT, "EXPIRED")


@case("watermark.durable", RESTART)
async def durable(peer: Peer) -> None:
    """The watermark is durable before anything is forgotten."""
    branch = await peer.committed()
    await peer.move_watermark(branch.order + 1)
    await peer.restart()
    acknowledgement = await branch.decide(COMMIT)
    expect(told(acknowledgement) in ("EXPIRED", "DONE"), f"a forgotten commit is acknowledged {told(acknowledgement)}")
