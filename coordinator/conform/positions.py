"""Cases of positions: how far each log is, told only of what is durable, and remembered of the other one.

Who numbers no records leaves all of it out, and keeps every rule here.
"""

from __future__ import annotations

from coordinator.conform.case import RESTART, case, expect
from coordinator.conform.peer import COMMIT, Peer

OURS = 1_000
"""How much further the coordinator's log is with each of these cases."""


async def _tells_positions(peer: Peer) -> bool:
    """Whether it numbers its records: after a commit it must have told one."""
    if not peer.position:
        await peer.committed()
    return peer.position > 0


async def _restarted(peer: Peer) -> None:
    """The process is killed, and the next one says Hello."""
    before = peer.hello.incarnation
    peer.lose()
    await peer.process.restart()
    await peer.accept()
    while peer.hello.incarnation == before:
        peer.lose()
        await peer.accept()


@case("position.grows")
async def grows(peer: Peer) -> None:
    """Whoever tells positions tells a higher one with each vote and acknowledgement that hangs on a record, never a lower one."""
    if not await _tells_positions(peer):
        return
    branch, before = peer.branch(), peer.position
    await branch.prepared()
    voted = peer.position
    await branch.acknowledged(COMMIT, "DONE")
    expect(before < voted < peer.position, f"it was {before}, with the vote {voted}, and with the acknowledgement {peer.position}")
    expect(not peer.position_fell, "a position was told that is lower than one before")


@case("position.durable", RESTART)
async def durable(peer: Peer) -> None:
    """A position is told of what is durable: after a kill the log is as far, and its new start says so beside itself."""
    if not await _tells_positions(peer):
        return
    await peer.committed()
    told = peer.position
    await _restarted(peer)
    hello, now = peer.hello, peer.hello_position
    peer.welcome()
    await peer.hear_reports()
    expect(now >= told, f"it was told to be at {told}, and after a kill it is at {now}")
    expect(len(hello.starts_after) > 0, "starts_after is left out, and positions are told")
    after = hello.starts_after[-1]
    expect(after >= told, f"its start says that the log was at {after} before, and it was at {told}")


@case("position.heard", RESTART)
async def heard(peer: Peer) -> None:
    """The position that came with a decision is in the record of the outcome: after a kill Hello says it in `heard`."""
    if not await _tells_positions(peer):
        return
    peer.own_position += OURS
    told, branch = peer.own_position, peer.branch()
    await branch.prepared()
    peer.say(decisions=[branch.decision_message(COMMIT)], position=told)
    await branch.acknowledgement()
    await _restarted(peer)
    said = [one.position for one in peer.hello.heard if one.coordinator == peer.name and one.epoch == peer.epoch]
    peer.welcome()
    await peer.hear_reports()
    expect(said == [max([told, *said])], f"the coordinator was heard to {told}, and Hello says {said}")
