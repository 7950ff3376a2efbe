"""Cases of interactive work: calls of the participant's own API inside a transaction, and branches that nobody has announced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coordinator.conform.caller import Answer
from coordinator.conform.case import CALLS, READS, REFUSES, SLOW, Broken, Case, add, case, expect
from coordinator.conform.peer import ABORT, COMMIT, NO, READ_ONLY, YES, Branch, Operation, Peer, told
from troth.v1 import common_pb2, participant_pb2
from troth.values import decode_results

REFUSAL = common_pb2.Cause(reason="NOT_ACTIVE", message="a case of troth conform", retryable=True)
OTHER_NONCE = "0badcafe"


async def _votes(branch: Branch, count: int) -> participant_pb2.Vote:
    return await branch.prepare(interactive=True, operation_count=count)


async def _commits(branch: Branch, count: int) -> None:
    vote = await _votes(branch, count)
    expect(vote.kind == YES, f"{count} operations were acknowledged, and the vote is {told(vote)}")
    await branch.acknowledged(COMMIT, "DONE")


def _is_refused(peer: Peer, answer: Answer, reason: str = "") -> None:
    expect(bool(answer.failure), "the call succeeded")
    if answer.cause is None:
        raise Broken(f"a call failed without troth-cause-bin: {answer.failure}")
    expect(answer.cause.participant == peer.hello.participant, f"the cause names {answer.cause.participant!r} as its participant")
    expect(not reason or answer.cause.reason == reason, f"the reason is {answer.cause.reason}, not {reason}")


# ---- calls


@case("call.acknowledged", CALLS)
async def acknowledged(peer: Peer) -> None:
    """A call is answered with troth-acknowledged-bin: name, incarnation, number of operations. With that number it is prepared."""
    branch = peer.branch()
    await branch.works()
    await branch.works()
    await _commits(branch, 2)


@case("call.one-phase", CALLS)
async def one_phase(peer: Peer) -> None:
    """Interactive work is committed in one phase as well."""
    branch = peer.branch()
    await branch.works()
    vote = await branch.prepare(interactive=True, operation_count=1, one_phase=True)
    expect(told(vote) == "COMMITTED", f"it was voted {told(vote)}")
    await branch.settled("COMMITTED")


@case("call.count", CALLS)
async def count(peer: Peer) -> None:
    """A Prepare that names another number of operations than were run is NO, OPERATION_COUNT."""
    for named in (0, 1, 3):
        branch = peer.branch()
        await branch.works()
        await branch.works()
        vote = await _votes(branch, named)
        expect(told(vote) == "NO (OPERATION_COUNT)", f"2 operations were run and {named} named, and the vote is {told(vote)}")


@case("call.repeated", CALLS)
async def repeated(peer: Peer) -> None:
    """A repeated call, known by its call_id, gets the same answer and acknowledgement, and runs nothing."""
    branch = peer.branch()
    first = await branch.works(call_id="once")
    again = await branch.works(call_id="once")
    expect(again.response == first.response, "the repeat got another response")
    await _commits(branch, 1)


@case("call.refused", CALLS, REFUSES)
async def refused(peer: Peer) -> None:
    """A call whose operation refuses fails with troth-cause-bin: REFUSED, code, participant. The branch goes on."""
    branch = peer.branch()
    await branch.works()
    answer = await branch.call(operation=peer.operations.refuses)
    _is_refused(peer, answer, "REFUSED")
    expect(answer.cause is not None and bool(answer.cause.code), "the cause has no code")
    expect(answer.count == 0, f"a refused operation acknowledged {answer.count}")
    await _commits(branch, 1)


@case("call.unseen-by-others", CALLS, READS)
async def unseen_by_others(peer: Peer) -> None:
    """What a call changed is seen by nobody before the outcome: a read waits, is a CONFLICT, or sees the old."""
    branch = peer.branch()
    before = await peer.look(branch)
    await branch.works()
    reader = peer.branch()
    reader.number = branch.number
    assert peer.operations.reads is not None
    peer.say(prepares=[reader.prepare_message(peer.operations.reads)])
    await peer.listen()
    await branch.acknowledged(ABORT, "DONE")
    vote = await reader.vote()
    kept = vote.cause.reason == "CONFLICT" if vote.kind == NO else decode_results(vote.results) == before
    expect(kept, f"a read beside undecided work was voted {told(vote)}, and saw it")


@case("call.late", CALLS)
async def late(peer: Peer) -> None:
    """Once the commit has begun, and after a rollback, new calls are refused."""
    prepared, aborted = peer.branch(), peer.branch()
    await prepared.works()
    await _votes(prepared, 1)
    _is_refused(peer, await prepared.call())
    await prepared.acknowledged(COMMIT, "DONE")
    await aborted.acknowledged(ABORT, "DONE")
    _is_refused(peer, await aborted.call())


@case("call.commit-while-active", CALLS, READS)
async def commit_while_active(peer: Peer) -> None:
    """COMMIT of what is unprepared is a protocol error: it is never carried out, and never acknowledged DONE."""
    branch = peer.branch()
    before = await peer.look(branch)
    await branch.works()
    peer.say(decisions=[branch.decision_message(COMMIT)])
    await peer.listen()
    if not peer.is_connected:
        await peer.connect()
    await branch.settled("ROLLED_BACK")
    await _is_gone(peer, branch, before)
    expect(not peer.said("acknowledgements", branch.transaction_id), "it was acknowledged")


# ---- branches that nobody has announced


@case("enlist.not-needed", CALLS)
async def not_needed(peer: Peer) -> None:
    """A Prepare may name a branch whose Enlist was never answered, or never sent: the caller has told who did the work."""
    branch = peer.branch()
    branch.hold_enlisted()
    call = branch.begin_call()
    await peer.listen()
    if not call.done():  # it asks first, as it always may
        await peer.heard("enlists", branch.transaction_id)
        peer.say(enlisted=[branch.enlisted()])
    answer = await peer.answered(call)
    expect(answer.count == 1, f"a call of one operation acknowledged {answer.count}: {answer.failure}")
    await _commits(branch, 1)


@case("enlist.announced", CALLS)
async def announced(peer: Peer) -> None:
    """A branch that stays unprepared, and whose order is not known, sends Enlist, and again until it is answered, and no more."""
    branch = peer.branch()
    branch.hold_enlisted()
    call = branch.begin_call()
    for _ in range(2):
        await peer.heard("enlists", branch.transaction_id)
    peer.say(enlisted=[branch.enlisted()])
    answer = await peer.answered(call)
    expect(answer.count == 1, f"a call of one operation acknowledged {answer.count}: {answer.failure}")
    await peer.fence()
    peer.said("enlists", branch.transaction_id).clear()
    await peer.listen()
    await peer.fence()
    expect(not peer.said("enlists", branch.transaction_id), "it sent Enlist after it had been answered")
    await _commits(branch, 1)


@case("enlist.refused", CALLS, READS)
async def enlist_refused(peer: Peer) -> None:
    """With a refusal in Enlisted the branch is rolled back, and its later calls fail; the order that came lets it be forgotten."""
    branch = peer.branch()
    before = await peer.look(branch)
    branch.hold_enlisted()
    call = branch.begin_call()
    await peer.heard("enlists", branch.transaction_id)
    peer.say(enlisted=[branch.enlisted(refusal=REFUSAL)])
    await peer.answered(call)
    _is_refused(peer, await branch.call())
    expect((await _votes(branch, 1)).kind == NO, "after the refusal it was voted YES")
    expect(await peer.look(branch) == before, "after the refusal its work is still there")
    await peer.move_watermark(branch.order + 1)
    await branch.acknowledged(COMMIT, "EXPIRED")


@case("enlist.another-life", CALLS)
async def another_life(peer: Peer) -> None:
    """Work of a transaction that another life of the coordinator began runs only after Enlisted; with a refusal the call fails with
    its cause."""
    for accepted in (True, False):
        branch = peer.branch(nonce=OTHER_NONCE)
        branch.hold_enlisted()
        call = branch.begin_call()
        await peer.heard("enlists", branch.transaction_id)
        await peer.listen()
        expect(not call.done(), "it ran without waiting for Enlisted")
        peer.say(enlisted=[branch.enlisted() if accepted else branch.enlisted(refusal=REFUSAL)])
        answer = await peer.answered(call)
        if accepted:
            expect(answer.count == 1, f"a call of one operation acknowledged {answer.count}: {answer.failure}")
            await branch.acknowledged(ABORT, "DONE")
        else:
            expect(bool(answer.failure) and answer.count == 0, "the call succeeded although the branch was refused")
            reason = answer.cause.reason if answer.cause is not None else answer.failure
            expect(reason == REFUSAL.reason, f"it failed for another reason: {reason}")


@case("enlist.before-dying", CALLS)
async def before_dying(peer: Peer) -> None:
    """Before a call is refused for a lock, the branch is announced, and asks once more when Enlisted has come: by then it has heard
    how the holder ended."""
    holder, branch = peer.branch(), peer.branch()
    branch.number = holder.number
    await holder.prepared()
    branch.hold_enlisted()
    call = branch.begin_call()
    await peer.heard("enlists", branch.transaction_id)
    peer.say(decisions=[holder.decision_message(COMMIT)], enlisted=[branch.enlisted()])
    answer = await peer.answered(call)
    expect(not answer.failure, f"the holder had committed before Enlisted, and the call failed: {answer.failure}")
    await _commits(branch, 1)


@case("hello.lists-active", CALLS)
async def lists_active(peer: Peer) -> None:
    """Hello lists unprepared work as ACTIVE, with its order or 0; in the same life of the coordinator it goes on."""
    branch = peer.branch()
    await branch.works()
    await peer.reconnect()
    report = peer.reports.get(branch.transaction_id, participant_pb2.BranchReport())
    expect(told(report) == "ACTIVE", f"it is listed as {told(report)}")
    expect(report.order in (0, branch.order), f"it is listed with order {report.order}")
    await branch.works()
    await _commits(branch, 2)


# ---- cells: each message in each state of interactive work


@dataclass(slots=True)
class Scene:
    """A branch in a state."""

    branch: Branch
    call: asyncio.Task[Answer] | None = None
    """The call that has not been answered there."""
    holder: Branch | None = None
    """Who has the lock that it needs."""

    async def release(self) -> None:
        """The holder ends."""
        if self.holder is not None:
            await self.holder.decide(ABORT)

    async def ran(self) -> int:
        """How many operations its calls acknowledged."""
        return 1 if self.call is None else (await self.branch.peer.answered(self.call)).count


Bring = Callable[[Peer], Awaitable[Scene]]


async def _calling(branch: Branch, operation: Operation | None = None) -> Scene:
    """In a call that is not over yet; its Enlist is not answered."""
    branch.hold_enlisted()
    call = branch.begin_call(operation=operation)
    await branch.peer.heard("enlists", branch.transaction_id)
    return Scene(branch, call)


async def _enlisting(peer: Peer) -> Scene:
    return await _calling(peer.branch(nonce=OTHER_NONCE))


async def _waiting(peer: Peer) -> Scene:
    """It waits for somebody younger, which it may, or is refused, which is allowed."""
    branch, holder = peer.branch(), peer.branch()
    holder.number = branch.number
    await holder.works()
    scene = await _calling(branch)
    scene.holder = holder
    return scene


async def _executing(peer: Peer) -> Scene:
    return await _calling(peer.branch(), peer.operations.slow)


async def _active(peer: Peer) -> Scene:
    branch = peer.branch()
    await branch.works()
    return Scene(branch)


STATES: dict[str, tuple[str, Bring, tuple[str, ...]]] = {
    "enlisting": ("whose first call waits for Enlisted", _enlisting, (READS,)),
    "waiting": ("whose call waits for a lock", _waiting, (READS,)),
    "executing": ("that runs an operation", _executing, (READS, SLOW)),
    "active": ("that is unprepared", _active, (READS,)),
}


async def _is_gone(peer: Peer, branch: Branch, before: list[object]) -> None:
    vote = await _votes(branch, 1)
    expect(vote.kind == NO, f"after its rollback it was voted {told(vote)}")
    await branch.settled("ROLLED_BACK")
    expect(await peer.look(branch) == before, "after its rollback its work is still there")


async def _abort(peer: Peer, branch: Branch) -> None:
    peer.say(decisions=[branch.decision_message(ABORT)])
    message = await branch.acknowledgement()
    expect(told(message) == "DONE", f"ABORT was acknowledged {told(message)}")


async def _settle(peer: Peer, branch: Branch) -> None:
    await branch.settled("ROLLED_BACK")


async def _lost(peer: Peer, branch: Branch) -> None:
    await peer.reconnect(epoch=peer.epoch + 1)


async def _force_abort(peer: Peer, branch: Branch) -> None:
    await branch.forced(participant_pb2.FORCE_KIND_ABORT, "DONE")


ENDS: dict[str, tuple[str, Callable[[Peer, Branch], Awaitable[None]]]] = {
    "abort": ("ABORT rolls back", _abort),
    "settle": ("RollbackIfUnseen rolls back", _settle),
    "lost": ("A coordinator that has begun anew has aborted: rolled back is", _lost),
    "force-abort": ("An operator's ABORT rolls back, as an ordinary one,", _force_abort),
}
"""What ends it, whatever it is doing."""


def _ended(state: str, how: str) -> Case:
    what, bring, needs = STATES[state]
    rule, end = ENDS[how]

    async def run(peer: Peer) -> None:
        before = await peer.look(Branch(peer, "", 0, peer.next_number))
        scene = await bring(peer)
        await end(peer, scene.branch)
        if scene.call is not None:
            peer.say(enlisted=[scene.branch.enlisted(refusal=REFUSAL)])
            ran = await scene.ran()
            expect(state == "executing" or ran == 0, "the call that had not begun succeeded all the same")
        await scene.release()
        await _is_gone(peer, scene.branch, before)

    return Case(f"cell.{state}.{how}", f"{rule} a branch {what}", run, frozenset({CALLS, *needs}))


def _enlisted(state: str) -> Case:
    what, bring, needs = STATES[state]

    async def run(peer: Peer) -> None:
        scene = await bring(peer)
        peer.say(enlisted=[scene.branch.enlisted()])
        await scene.release()
        ran = await scene.ran()
        expect(ran == 1 or state == "waiting", "after Enlisted the call failed")
        vote = await _votes(scene.branch, ran)
        expect(vote.kind == (YES if ran else READ_ONLY), f"{ran} operations were acknowledged, and the vote is {told(vote)}")
        await scene.branch.decide(ABORT)

    return Case(f"cell.{state}.enlisted", f"Enlisted lets a branch {what} go on", run, frozenset({CALLS, *needs}))


def _prepared(state: str) -> Case:
    what, bring, needs = STATES[state]

    async def run(peer: Peer) -> None:
        scene = await bring(peer)
        named = 1 if state in ("executing", "active") else 0
        peer.say(prepares=[scene.branch.prepare_message(interactive=True, operation_count=named)])
        peer.say(enlisted=[scene.branch.enlisted()])
        ran = await scene.ran()
        vote = await scene.branch.vote()
        wanted = NO if ran != named else YES if ran else READ_ONLY
        expect(vote.kind == wanted, f"{ran} operations were acknowledged and {named} named, and the vote is {told(vote)}")
        await scene.branch.decide(ABORT)
        await scene.release()

    rule = f"Prepare of a branch {what} waits for what runs, refuses what has not begun, and is voted by what was acknowledged"
    return Case(f"cell.{state}.prepare", rule, run, frozenset({CALLS, *needs}))


for _state in STATES:
    add(_enlisted(_state))
    add(_prepared(_state))
    for _how in ENDS:
        add(_ended(_state, _how))
