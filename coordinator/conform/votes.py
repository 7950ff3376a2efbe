"""Cases of Prepare: every row of the table of votes."""

from __future__ import annotations

import asyncio

from coordinator.conform.case import READS, REFUSES, Broken, case, expect
from coordinator.conform.peer import ABORT, COMMIT, COMMITTED, NO, READ_ONLY, YES, Branch, Operation, Peer, told
from troth.errors import RequestError
from troth.v1 import participant_pb2
from troth.values import decode_results


def _is_no(peer: Peer, vote: participant_pb2.Vote, reason: str = "") -> None:
    expect(vote.kind == NO, f"the vote was {told(vote)}, not NO")
    expect(bool(vote.cause.reason), "a NO has no reason")
    expect(not reason or vote.cause.reason == reason, f"the reason of the NO is {vote.cause.reason}, not {reason}")
    expect(vote.cause.participant == peer.hello.participant, f"the NO names {vote.cause.participant!r} as its participant")


@case("prepare.yes")
async def yes(peer: Peer) -> None:
    """One-shot work is run, and voted YES, with one result for each operation."""
    work = peer.operations.work
    branch = peer.branch()
    vote = await branch.prepared(work, work)
    try:
        values = decode_results(vote.results)
    except RequestError as error:
        raise Broken(f"the results are no Results: {error.message}") from None
    expect(len(values) == 2, f"there are {len(values)} results of 2 operations")
    await branch.acknowledged(COMMIT, "DONE")


@case("prepare.repeated")
async def repeated(peer: Peer) -> None:
    """A repeated Prepare of a PREPARED branch gets the same vote with the same results."""
    branch = peer.branch()
    first = await branch.prepared()
    for _ in range(2):
        expect(await branch.prepare() == first, "a repeated Prepare got another vote")
    await branch.acknowledged(COMMIT, "DONE")


@case("prepare.runs-once", READS)
async def runs_once(peer: Peer) -> None:
    """However often Prepare is repeated, the work runs once."""
    once, often = peer.branch(), peer.branch()
    await once.prepared()
    peer.say(prepares=[often.prepare_message()] * 3)
    expect((await often.vote()).kind == YES, "a repeated Prepare was not voted YES")
    await often.prepared()
    await peer.reconnect()
    await often.prepared()
    for branch in (once, often):
        await branch.acknowledged(COMMIT, "DONE")
    expect(await peer.look(once) == await peer.look(often), "a repeated Prepare did the work again")


@case("prepare.refused", REFUSES)
async def refused(peer: Peer) -> None:
    """An operation that refuses is voted NO, with REFUSED, the application's code, the participant."""
    vote = await peer.branch().prepare(_refusing(peer))
    _is_no(peer, vote, "REFUSED")
    expect(bool(vote.cause.code), "the NO of a refusal has no code")


@case("prepare.refused-undoes", REFUSES, READS)
async def refused_undoes(peer: Peer) -> None:
    """When one operation refuses, those before it are undone."""
    branch = peer.branch()
    before = await peer.look(branch)
    _is_no(peer, await branch.prepare(peer.operations.work, _refusing(peer)), "REFUSED")
    expect(await peer.look(branch) == before, "the operation before the one that refused was not undone")


@case("prepare.refused-repeated", REFUSES)
async def refused_repeated(peer: Peer) -> None:
    """A repeated Prepare of a branch that voted NO is NO again, with the same reason."""
    branch = peer.branch()
    first = await branch.prepare(_refusing(peer))
    _is_no(peer, first)
    for operation in (_refusing(peer), peer.operations.work):
        again = await branch.prepare(operation)
        _is_no(peer, again)
        expect(again.cause.reason in (first.cause.reason, "ROLLED_BACK"), f"it is NO for {again.cause.reason} now")


@case("prepare.rolled-back")
async def rolled_back(peer: Peer) -> None:
    """Late work of a branch that was rolled back is refused: NO."""
    branch = peer.branch()
    await branch.acknowledged(ABORT, "DONE")
    _is_no(peer, await branch.prepare())
    late = peer.branch()
    await late.prepared()
    await late.acknowledged(ABORT, "DONE")
    _is_no(peer, await late.prepare())


@case("prepare.rolled-back-unasked")
async def rolled_back_unasked(peer: Peer) -> None:
    """An ABORT that asks for no acknowledgement is remembered too."""
    branch = peer.branch()
    peer.say(decisions=[branch.decision_message(ABORT, asked=False)])
    _is_no(peer, await branch.prepare())


@case("prepare.incarnation")
async def incarnation(peer: Peer) -> None:
    """A Prepare for another incarnation of an unprepared branch is NO, PARTICIPANT_RESTARTED."""
    vote = await peer.branch().prepare(incarnation=peer.hello.incarnation + 1)
    _is_no(peer, vote, "PARTICIPANT_RESTARTED")


@case("prepare.operation-count")
async def operation_count(peer: Peer) -> None:
    """An interactive Prepare with another number of operations than were run is NO."""
    _is_no(peer, await peer.branch().prepare(interactive=True, operation_count=1), "OPERATION_COUNT")


@case("prepare.unknown-operation")
async def unknown_operation(peer: Peer) -> None:
    """An operation that is unknown, or whose arguments are none, is voted NO."""
    _is_no(peer, await peer.branch().prepare(Operation("no_such_operation_of_conform", "{}")))
    _is_no(peer, await peer.branch().prepare(Operation(peer.operations.work.name, '{"no_such_argument_of_conform": 1}')))


@case("prepare.read-only", READS)
async def read_only(peer: Peer) -> None:
    """A branch that changed nothing is voted READ_ONLY, with its results, and so is a repeat."""
    branch = peer.branch()
    vote = await branch.prepare(_reading(peer))
    expect(vote.kind == READ_ONLY, f"a read was voted {told(vote)}")
    expect(len(decode_results(vote.results)) == 1, "its result is missing")
    again = await branch.prepare(_reading(peer))
    expect(again.kind == READ_ONLY, f"the repeat was voted {told(again)}")


@case("prepare.hold-read-locks", READS)
async def hold_read_locks(peer: Peer) -> None:
    """With hold_read_locks a branch that changed nothing is voted YES, and stays for phase two."""
    branch = peer.branch()
    await branch.prepared(_reading(peer), hold_read_locks=True)
    await branch.acknowledged(COMMIT, "DONE")


@case("prepare.read-locks-are-held", READS)
async def read_locks_are_held(peer: Peer) -> None:
    """With hold_read_locks nobody changes what was read before the outcome: others wait, or are NO, CONFLICT."""
    reader, writer = peer.branch(), peer.branch()
    writer.number = reader.number
    await reader.prepared(_reading(peer), hold_read_locks=True)
    peer.say(prepares=[writer.prepare_message()])
    await peer.listen()
    expect(not [vote for vote in peer.said("votes", writer.transaction_id) if vote.kind != NO], "it was changed")
    await reader.acknowledged(COMMIT, "DONE")
    vote = await writer.vote()
    if vote.kind == NO:
        _is_no(peer, vote, "CONFLICT")
    else:
        await writer.acknowledged(ABORT, "DONE")


@case("prepare.one-phase")
async def one_phase(peer: Peer) -> None:
    """With one_phase the work is committed and voted COMMITTED, never YES, and so is a repeat."""
    branch = peer.branch()
    first = await branch.prepare(one_phase=True)
    expect(first.kind == COMMITTED, f"a one-phase commit was voted {told(first)}")
    again = await branch.prepare(one_phase=True)
    expect(again == first, f"the repeat was voted {told(again)}, or has other results")


@case("prepare.one-phase-once", READS)
async def one_phase_once(peer: Peer) -> None:
    """A repeated one-phase commit does its work once."""
    once, often = peer.branch(), peer.branch()
    await once.prepare(one_phase=True)
    for _ in range(3):
        await often.prepare(one_phase=True)
    expect(await peer.look(once) == await peer.look(often), "a repeated one-phase commit did the work again")


@case("prepare.one-phase-refused", REFUSES, READS)
async def one_phase_refused(peer: Peer) -> None:
    """A one-phase commit whose operation refuses is NO, and nothing of it is done."""
    branch = peer.branch()
    before = await peer.look(branch)
    _is_no(peer, await branch.prepare(peer.operations.work, _refusing(peer), one_phase=True), "REFUSED")
    expect(await peer.look(branch) == before, "the operation before the one that refused was committed")


@case("prepare.in-doubt-is-unseen", READS)
async def in_doubt_is_unseen(peer: Peer) -> None:
    """What an undecided branch changed is seen by nobody: a read waits, is a CONFLICT, or sees the old."""
    branch = peer.branch()
    before = await peer.look(branch)
    await branch.prepared()
    reader = peer.branch()
    reader.number = branch.number
    peer.say(prepares=[reader.prepare_message(_reading(peer))])
    await asyncio.sleep(peer.quiet_seconds)
    await branch.acknowledged(ABORT, "DONE")
    vote = await reader.vote()
    if vote.kind == NO:
        _is_no(peer, vote, "CONFLICT")
        expect(vote.cause.retryable, "the CONFLICT is not retryable")
    else:
        expect(decode_results(vote.results) == before, "a read saw what was then rolled back")


@case("prepare.conflict", READS)
async def conflict(peer: Peer) -> None:
    """While a branch is undecided, others that need what it changed wait, or are NO, CONFLICT."""
    before, after = peer.branch(), peer.branch()
    after.number = before.number
    await before.prepare(one_phase=True)
    behind = decode_results((await after.prepare(one_phase=True)).results)
    alone = decode_results((await peer.branch().prepare(one_phase=True)).results)
    for kind, wanted in ((ABORT, alone), (COMMIT, behind)):
        first, second = peer.branch(), peer.branch()
        second.number = first.number
        await first.prepared()
        peer.say(prepares=[second.prepare_message()])
        await asyncio.sleep(peer.quiet_seconds)
        await first.acknowledged(kind, "DONE")
        vote = await second.vote()
        if vote.kind == NO:
            _is_no(peer, vote, "CONFLICT")
            expect(vote.cause.retryable, "the CONFLICT is not retryable")
        else:
            expect(decode_results(vote.results) == wanted, "a branch did not wait for the outcome of what another had changed")
            await second.acknowledged(COMMIT, "DONE")


@case("prepare.bounded", READS)
async def everybody_votes(peer: Peer) -> None:
    """Whatever waits for a lock waits for a bounded time: every Prepare gets a vote."""
    holder = peer.branch()
    await holder.prepared()
    others: list[Branch] = [peer.branch() for _ in range(3)]
    for age, other in enumerate(others):
        other.number = holder.number
        message = other.prepare_message(timeout_ms=1000, first_attempt_ms=peer.started_ms + (age - 1) * 100_000)
        peer.say(prepares=[message])
    for other in others:
        _is_no(peer, await other.vote())
    await holder.acknowledged(COMMIT, "DONE")


def _refusing(peer: Peer) -> Operation:
    assert peer.operations.refuses is not None
    return peer.operations.refuses


def _reading(peer: Peer) -> Operation:
    assert peer.operations.reads is not None
    return peer.operations.reads
