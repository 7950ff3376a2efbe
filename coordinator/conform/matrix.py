"""Cases by the table: a branch is brought into a state, and hears each message that may come there; one case a cell.

Cells that another case shows already, with more of what must be true, are not here. `tests/conform/test_conform_table.py` compares
all cases with the participant's table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.conform.case import READS, Case, add, case, expect
from coordinator.conform.peer import ABORT, COMMIT, READ_ONLY, YES, Branch, Peer, told
from troth.v1 import participant_pb2

FORCES = {
    "force-commit": participant_pb2.FORCE_KIND_COMMIT,
    "force-abort": participant_pb2.FORCE_KIND_ABORT,
    "force-forget": participant_pb2.FORCE_KIND_FORGET,
}

# ---- how a branch comes into a state


async def _unseen(peer: Peer) -> Branch:
    return peer.branch()


async def _expired(peer: Peer) -> Branch:
    branch = peer.branch(epoch=peer.epoch - 1)
    await peer.move_watermark(1)
    return branch


async def _prepared(peer: Peer) -> Branch:
    branch = peer.branch()
    await branch.prepared()
    return branch


async def _committed(peer: Peer) -> Branch:
    return await peer.committed()


async def _aborted(peer: Peer) -> Branch:
    branch = await _prepared(peer)
    await branch.acknowledged(ABORT, "DONE")
    return branch


async def _read_only(peer: Peer) -> Branch:
    branch = peer.branch()
    assert peer.operations.reads is not None
    vote = await branch.prepare(peer.operations.reads)
    expect(vote.kind == READ_ONLY, f"a read was voted {told(vote)}")
    return branch


async def _forced_commit(peer: Peer) -> Branch:
    branch = await _prepared(peer)
    await branch.forced(FORCES["force-commit"], "FORCED_COMMIT")
    return branch


async def _forced_abort(peer: Peer) -> Branch:
    branch = await _prepared(peer)
    await branch.forced(FORCES["force-abort"], "FORCED_ABORT")
    return branch


STATES: dict[str, tuple[str, Callable[[Peer], Awaitable[Branch]]]] = {
    "unseen": ("never seen", _unseen),
    "expired": ("unknown and below the watermark", _expired),
    "prepared": ("PREPARED", _prepared),
    "committed": ("COMMITTED", _committed),
    "aborted": ("ABORTED", _aborted),
    "read-only": ("READ_ONLY and over", _read_only),
    "forced-commit": ("committed by an operator", _forced_commit),
    "forced-abort": ("rolled back by an operator", _forced_abort),
}

# ---- an operator's orders

FORCED: dict[str, dict[str, str]] = {
    "unseen": {"force-commit": "HAZARD", "force-abort": "DONE", "force-forget": "DONE"},
    "expired": {"force-commit": "EXPIRED", "force-abort": "EXPIRED", "force-forget": "DONE"},
    "committed": {"force-commit": "DONE", "force-abort": "DONE", "force-forget": "DONE"},
    "aborted": {"force-commit": "DONE", "force-abort": "DONE", "force-forget": "DONE"},
    "read-only": {"force-commit": "DONE", "force-abort": "DONE", "force-forget": "DONE"},
    "forced-commit": {"force-commit": "FORCED_COMMIT", "force-abort": "FORCED_COMMIT"},
    "forced-abort": {"force-commit": "FORCED_ABORT", "force-abort": "FORCED_ABORT"},
}
"""What each order is acknowledged with, by the state of the branch."""


def _force(state: str, order: str, wanted: str) -> Case:
    what, bring = STATES[state]

    async def run(peer: Peer) -> None:
        branch = await bring(peer)
        await branch.forced(FORCES[order], wanted)
        if state.startswith("forced"):
            await branch.forced(FORCES["force-forget"], "DONE")

    kind = order.removeprefix("force-").upper()
    return Case(f"cell.{state}.{order}", f"Force {kind} of a branch {what} is acknowledged {wanted}", run, _needs(state))


def _needs(state: str) -> frozenset[str]:
    return frozenset({READS}) if state == "read-only" else frozenset()


for _state, _orders in FORCED.items():
    for _order, _wanted in _orders.items():
        add(_force(_state, _order, _wanted))


# ---- what concerns interactive work alone, and lost streams


def _enlisted(state: str) -> Case:
    what, bring = STATES[state]

    async def run(peer: Peer) -> None:
        branch = await bring(peer)
        enlisted = participant_pb2.Enlisted(transaction_id=branch.transaction_id, order=branch.order)
        peer.say(enlisted=[enlisted, enlisted])
        await peer.fence()
        for name in ("votes", "acknowledgements", "settlements"):
            expect(not peer.said(name, branch.transaction_id), f"{name} came")
        await _end(state, branch)

    return Case(f"cell.{state}.enlisted", f"Enlisted, late or repeated, changes nothing of a branch {what}", run, _needs(state))


AFTER_LOSS = {
    "committed": "DONE", "aborted": "HAZARD", "read-only": "DONE", "forced-commit": "DONE", "forced-abort": "FORCED_ABORT",
}  # fmt: skip
"""What COMMIT is acknowledged with, as before the stream was lost."""


def _lost(state: str) -> Case:
    what, bring = STATES[state]

    async def run(peer: Peer) -> None:
        branch = await bring(peer)
        await peer.reconnect()
        await branch.acknowledged(COMMIT, AFTER_LOSS.get(state, "DONE"))
        if state == "forced-abort":
            await branch.forced(FORCES["force-forget"], "DONE")

    return Case(f"cell.{state}.lost", f"A lost stream changes nothing of a branch {what}", run, _needs(state))


async def _end(state: str, branch: Branch) -> None:
    """Leave nothing in doubt."""
    if state == "prepared":
        await branch.acknowledged(ABORT, "DONE")
    elif state.startswith("forced"):
        await branch.forced(FORCES["force-forget"], "DONE")


for _state in STATES:
    add(_enlisted(_state))
for _state in ("prepared", *AFTER_LOSS):
    add(_lost(_state))


# ---- what an operator ended, and is prepared or asked about again


async def _prepare_forced_commit(peer: Peer) -> None:
    branch = await _forced_commit(peer)
    vote = await branch.prepare()
    expect(vote.kind == YES, f"it was voted {told(vote)}, and YES before")
    await _end("forced-commit", branch)


async def _settle_forced_commit(peer: Peer) -> None:
    branch = await _forced_commit(peer)
    peer.say(settles=[branch.settle_message()])
    message = await branch.acknowledgement()
    expect(told(message) == "FORCED_COMMIT", f"it was acknowledged {told(message)}")
    await _end("forced-commit", branch)


async def _settle_forced_abort(peer: Peer) -> None:
    branch = await _forced_abort(peer)
    await branch.settled("ROLLED_BACK")
    await _end("forced-abort", branch)


for _name, _rule, _run in (
    ("forced-commit.prepare", "Prepare of a branch that an operator committed gets its vote again", _prepare_forced_commit),
    ("forced-commit.settle", "RollbackIfUnseen of what an operator committed is acknowledged FORCED_COMMIT", _settle_forced_commit),
    ("forced-abort.settle", "RollbackIfUnseen of what an operator rolled back is ROLLED_BACK", _settle_forced_abort),
):
    add(Case(f"cell.{_name}", _rule, _run))


# ---- while something runs: what comes right behind it


def _running(name: str, rule: str) -> Callable[[Callable[[Peer], Awaitable[None]]], Callable[[Peer], Awaitable[None]]]:
    def register(run: Callable[[Peer], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
        add(Case(f"cell.{name}", rule, run))
        return run

    return register


@_running("preparing.prepare", "A Prepare that is repeated while it runs is run once, and voted on")
async def _twice(peer: Peer) -> None:
    branch = peer.branch()
    message = branch.prepare_message(peer.operations.slowest)
    peer.say(prepares=[message, message])
    expect((await branch.vote()).kind == YES, "the vote is not YES")
    await branch.acknowledged(ABORT, "DONE")


@_running("preparing.abort", "An ABORT behind a Prepare that runs waits for it, and rolls it back")
async def _abort_behind(peer: Peer) -> None:
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest)])
    peer.say(decisions=[branch.decision_message(ABORT)])
    expect(told(await branch.acknowledgement()) == "DONE", "it was not acknowledged DONE")
    await branch.acknowledged(COMMIT, "HAZARD")


@_running("preparing.force-abort", "An operator's ABORT behind a Prepare that runs waits for it, and ends the branch")
async def _force_behind(peer: Peer) -> None:
    branch = peer.branch()
    force = participant_pb2.Force(transaction_id=branch.transaction_id, kind=FORCES["force-abort"], who="conform", why="a case")
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest)], forces=[force])
    message = await branch.acknowledgement()
    expect(told(message) in ("FORCED_ABORT", "DONE"), f"it was acknowledged {told(message)}")
    await branch.forced(FORCES["force-forget"], "DONE")
    await branch.settled("ROLLED_BACK")


@_running("one-phase.abort", "An ABORT behind a one-phase Prepare that runs waits for it, and comes too late")
async def _abort_behind_one_phase(peer: Peer) -> None:
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest, one_phase=True)])
    peer.say(decisions=[branch.decision_message(ABORT)])
    expect(told(await branch.acknowledgement()) == "HAZARD", "ABORT of what committed was not HAZARD")
    await branch.settled("COMMITTED")


@_running("one-phase.prepare", "A one-phase Prepare that is repeated while it runs is run once")
async def _one_phase_twice(peer: Peer) -> None:
    branch = peer.branch()
    message = branch.prepare_message(peer.operations.slowest, one_phase=True)
    peer.say(prepares=[message, message])
    vote = await branch.vote()
    expect(told(vote) == "COMMITTED", f"it was voted {told(vote)}")


@_running("one-phase.force-abort", "An operator's ABORT behind a one-phase Prepare that runs comes too late")
async def _force_behind_one_phase(peer: Peer) -> None:
    branch = peer.branch()
    force = participant_pb2.Force(transaction_id=branch.transaction_id, kind=FORCES["force-abort"], who="conform", why="a case")
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest, one_phase=True)], forces=[force])
    expect(told(await branch.acknowledgement()) == "DONE", "it was not acknowledged DONE")
    await branch.settled("COMMITTED")


_ORDERS = dict.fromkeys(FORCES, "DONE")
LATE = {
    "committing": (COMMIT, {"commit": "DONE", "abort": "HAZARD", **_ORDERS}),
    "aborting": (ABORT, {"commit": "HAZARD", "abort": "DONE", **_ORDERS}),
}
"""What comes in one frame with the decision, and what it is acknowledged with once that is carried out."""


def _late(state: str, kind: participant_pb2.DecisionKind.ValueType, what: str, wanted: str) -> Case:
    async def run(peer: Peer) -> None:
        branch = await _prepared(peer)
        first = branch.decision_message(kind)
        if what in FORCES:
            force = participant_pb2.Force(transaction_id=branch.transaction_id, kind=FORCES[what], who="conform", why="a case")
            peer.say(decisions=[first], forces=[force])
        else:
            peer.say(decisions=[first, branch.decision_message(COMMIT if what == "commit" else ABORT)])
        heard = [told(await branch.acknowledgement())]
        # A repeat of what is being carried out may be acknowledged with it.
        if not state.startswith(what):
            heard.append(told(await branch.acknowledgement()))
        expect(heard[-1] == wanted and heard[0] == "DONE", f"they were acknowledged {heard}")

    verb = participant_pb2.DecisionKind.Name(kind).removeprefix("DECISION_KIND_")
    rule = f"{what.replace('-', ' ')} in one frame with {verb}, which is being carried out, is acknowledged {wanted} after it"
    return Case(f"cell.{state}.{what}", rule, run)


for _state, (_kind, _answers) in LATE.items():
    for _what, _wanted in _answers.items():
        add(_late(_state, _kind, _what, _wanted))


@_running("preparing.lost", "A stream that is lost while a Prepare runs takes nothing back")
async def _lost_while_preparing(peer: Peer) -> None:
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest)])
    await peer.reconnect()
    await branch.prepared()
    await branch.acknowledged(COMMIT, "DONE")


@case("epoch.higher-while-preparing")
async def higher_while_preparing(peer: Peer) -> None:
    """A coordinator that begins anew while a Prepare runs finds the branch PREPARED, or rolled back, and it stays so."""
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest)])
    await peer.reconnect(epoch=peer.epoch + 1)
    peer.say(settles=[branch.settle_message()])
    settlement = await peer.heard("settlements", branch.transaction_id)
    wanted = {"PREPARED": "DONE", "ROLLED_BACK": "HAZARD"}.get(told(settlement), "")
    await branch.acknowledged(COMMIT, wanted)


@case("epoch.higher-while-one-phase")
async def higher_while_one_phase(peer: Peer) -> None:
    """A coordinator that begins anew while a one-phase Prepare runs is told what came of it: the decision was handed over."""
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest, one_phase=True)])
    await peer.reconnect(epoch=peer.epoch + 1)
    peer.say(settles=[branch.settle_message()])
    settlement = await peer.heard("settlements", branch.transaction_id)
    expect(told(settlement) in ("COMMITTED", "ROLLED_BACK"), f"it was answered {told(settlement)}")
    await branch.settled(told(settlement))


@_running("one-phase.lost", "A stream that is lost while a one-phase Prepare runs takes nothing back")
async def _lost_in_one_phase(peer: Peer) -> None:
    branch = peer.branch()
    peer.say(prepares=[branch.prepare_message(peer.operations.slowest, one_phase=True)])
    await peer.reconnect()
    vote = await branch.prepare(one_phase=True)
    expect(told(vote) == "COMMITTED", f"it was voted {told(vote)}")


@_running("committing.lost", "A stream that is lost while a commit is carried out takes nothing back")
async def _lost_while_committing(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(COMMIT)])
    await peer.reconnect()
    await branch.acknowledged(COMMIT, "DONE")


@_running("aborting.lost", "A stream that is lost while a rollback is carried out takes nothing back")
async def _lost_while_aborting(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(ABORT)])
    await peer.reconnect()
    await branch.acknowledged(COMMIT, "HAZARD")


@_running("committing.settle", "RollbackIfUnseen behind a COMMIT that is being carried out is COMMITTED")
async def _settle_committing(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(COMMIT)], settles=[branch.settle_message()])
    settlement = await peer.heard("settlements", branch.transaction_id)
    expect(told(settlement) == "COMMITTED", f"it was answered {told(settlement)}")
    expect(told(await branch.acknowledgement()) == "DONE", "COMMIT was not acknowledged DONE")


@_running("aborting.settle", "RollbackIfUnseen behind an ABORT that is being carried out is ROLLED_BACK")
async def _settle_aborting(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(ABORT)], settles=[branch.settle_message()])
    settlement = await peer.heard("settlements", branch.transaction_id)
    expect(told(settlement) == "ROLLED_BACK", f"it was answered {told(settlement)}")


@_running("committing.prepare", "Prepare behind a COMMIT that is being carried out gets its vote again, and runs nothing")
async def _prepare_committing(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(COMMIT)], prepares=[branch.prepare_message()])
    expect((await branch.vote()).kind == YES, "the vote is not YES")
    expect(told(await branch.acknowledgement()) == "DONE", "COMMIT was not acknowledged DONE")


@_running("aborting.prepare", "Prepare behind an ABORT that is being carried out is voted NO")
async def _prepare_aborting(peer: Peer) -> None:
    branch = await _prepared(peer)
    peer.say(decisions=[branch.decision_message(ABORT)])
    vote = await branch.prepare()
    expect(told(vote).startswith("NO"), f"it was voted {told(vote)}")


def _enlisted_behind(state: str, kind: participant_pb2.DecisionKind.ValueType | None, *, one_phase: bool = False) -> Case:
    async def run(peer: Peer) -> None:
        branch = peer.branch() if kind is None else await _prepared(peer)
        if kind is None:
            peer.say(prepares=[branch.prepare_message(peer.operations.slowest, one_phase=one_phase)])
        else:
            peer.say(decisions=[branch.decision_message(kind)])
        peer.say(enlisted=[participant_pb2.Enlisted(transaction_id=branch.transaction_id, order=branch.order)])
        if kind is None:
            wanted = "COMMITTED" if one_phase else "YES"
            expect(told(vote := await branch.vote()) == wanted, f"it was voted {told(vote)}")
        else:
            expect(told(await branch.acknowledgement()) == "DONE", "the decision was not acknowledged DONE")
        if kind is None and not one_phase:
            await branch.acknowledged(ABORT, "DONE")

    return Case(f"cell.{state}.enlisted", f"Enlisted, late, changes nothing of a branch that is {state.replace('-', ' ')}", run)


add(_enlisted_behind("preparing", None))
add(_enlisted_behind("one-phase", None, one_phase=True))
add(_enlisted_behind("committing", COMMIT))
add(_enlisted_behind("aborting", ABORT))
