"""Cases of the session: identity, Hello, Welcome, stale coordinators, dialling again."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

from coordinator.conform.case import RESTART, Broken, case, expect
from coordinator.conform.peer import ABORT, COMMIT, Peer
from coordinator.conform.wire import Stream
from troth.ids import NAME_PATTERN
from troth.v1 import common_pb2, participant_pb2

WELCOME_SECONDS = 6.0
"""How late Welcome comes: later than a participant in doubt asks by itself (the SDK within 5 s)."""
NONCE = re.compile(r"([0-9a-f]{8,32})?\Z")


@case("hello.identity")
async def identity(peer: Peer) -> None:
    """Hello has a legal name, a log_id of 1 to 64 characters, an incarnation from 1, and protocol 1."""
    hello = peer.hello
    expect(bool(NAME_PATTERN.match(hello.participant)), f"participant is {hello.participant!r}")
    expect(0 < len(hello.log_id) <= 64, f"log_id has {len(hello.log_id)} characters")
    expect(hello.incarnation >= 1, "incarnation is 0")
    expect(hello.protocol.lowest <= 1 <= hello.protocol.highest, f"protocol is {hello.protocol}")
    expect(bool(NONCE.match(hello.nonce)), f"nonce is {hello.nonce!r}")


@case("hello.again")
async def again(peer: Peer) -> None:
    """When the stream ends, the participant dials again, with the same identity."""
    before = (peer.hello.participant, peer.hello.log_id, peer.hello.incarnation, peer.hello.nonce)
    await peer.reconnect()
    after = (peer.hello.participant, peer.hello.log_id, peer.hello.incarnation, peer.hello.nonce)
    expect(before == after, f"it was {before}, and is {after}")


@case("hello.refused-start", RESTART)
async def refused_start(peer: Peer) -> None:
    """A process that only asks, and is refused, has changed nothing: the next start asks for the same incarnation. (A process need
    not ask: then its incarnation has begun with its Hello, and there is nothing to see.)"""
    before = peer.hello.incarnation
    peer.lose()
    await peer.process.restart()
    await _of_another_incarnation(peer, before)
    if peer.hello.asks:
        asked = peer.hello.incarnation
        cause = common_pb2.Cause(reason="FOREIGN_LOG", message="a case of troth conform", retryable=False)
        peer.say(goodbye=participant_pb2.Goodbye(cause=cause))
        peer.lose()
        await peer.process.restart()
        await _of_another_incarnation(peer, before)
        expect(peer.hello.incarnation == asked, f"a refused start made {peer.hello.incarnation} of incarnation {asked}")
        peer.lose()
        await peer.connect()
    else:
        peer.welcome()
        await peer.hear_reports()


async def _of_another_incarnation(peer: Peer, before: int) -> None:
    """The Hello of the process that was just started; streams of the one before it are of no interest."""
    await peer.accept_any()
    while peer.hello.incarnation == before:
        peer.lose()
        await peer.accept_any()


@case("hello.goodbye")
async def goodbye(peer: Peer) -> None:
    """After a Goodbye that is retryable the participant dials again."""
    cause = common_pb2.Cause(reason="DRAINING", message="a case of troth conform", retryable=True)
    peer.say(goodbye=participant_pb2.Goodbye(cause=cause))
    await peer.reconnect()


@case("hello.nothing-before-welcome")
async def nothing_before_welcome(peer: Peer) -> None:
    """Nothing else is said, and no branch is listed or asked about, before Welcome is taken, however late it comes."""
    branch = peer.branch()
    await branch.prepared()
    peer.lose()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(peer.patience_seconds, WELCOME_SECONDS)):
            while True:
                await _says_nothing(await peer.accept())  # who loses patience and dials again has done no wrong
    if not peer.is_connected:
        await peer.accept()
    expect(not peer._complete_with_hello, "Hello said that the list is complete, and a branch is PREPARED")
    peer.welcome()
    await peer.hear_reports()
    expect(branch.transaction_id in peer.reports, "the PREPARED branch is not listed")
    await branch.acknowledged(COMMIT, "DONE")


async def _says_nothing(stream: Stream) -> None:
    """Return when the stream has ended. Raises `Broken` when something came on it."""
    if (frame := await stream.read()) is not None:
        names = [field.name for field, _ in frame.ListFields() if field.name != "timestamp"]
        raise Broken(f"{', '.join(names)} came before Welcome")


@case("hello.lists-prepared")
async def lists_prepared(peer: Peer) -> None:
    """Hello lists every PREPARED branch, with its order and the results of its vote."""
    branches = [peer.branch() for _ in range(3)]
    votes = [await branch.prepared() for branch in branches]
    await peer.reconnect()
    for branch, vote in zip(branches, votes, strict=True):
        report = peer.reports.get(branch.transaction_id)
        if report is None:
            raise Broken("a PREPARED branch is not listed")
        expect(report.state == participant_pb2.BRANCH_STATE_PREPARED, f"a PREPARED branch is listed as {report.state}")
        expect(report.order == branch.order, f"its order is {branch.order}, and {report.order} is listed")
        expect(report.results == vote.results, "its results are not those of its vote")
        await branch.acknowledged(COMMIT, "DONE")
    await peer.reconnect()
    expect(not peer.reports.keys() & {branch.transaction_id for branch in branches}, "a committed branch is listed as unfinished")


@case("hello.lists-one-phase")
async def lists_one_phase(peer: Peer) -> None:
    """Hello lists what was committed in one phase, with its results, until the watermark covers it."""
    branch = peer.branch()
    vote = await branch.prepare(one_phase=True)
    await peer.reconnect()
    report = peer.reports.get(branch.transaction_id)
    if report is None:
        raise Broken("it is not listed")
    expect(report.state == participant_pb2.BRANCH_STATE_COMMITTED, f"it is listed as {report.state}")
    expect(report.results == vote.results, "its results are not those of its vote")
    await peer.move_watermark(branch.order + 1)
    await peer.reconnect()
    expect(branch.transaction_id not in peer.reports, "it is listed although the watermark covers it")


@case("epoch.stale")
async def stale(peer: Peer) -> None:
    """A Welcome with a lower epoch is a stale coordinator: end the stream, list nothing, do nothing of it."""
    branch, later = peer.branch(), peer.branch()
    await branch.prepared()
    await _meets_a_stale_coordinator(peer)
    expect(not peer.said("votes", later.transaction_id), "it voted for a stale coordinator")
    await peer.connect()
    expect(branch.transaction_id in peer.reports, "it obeyed the ABORT of a stale coordinator")
    await branch.acknowledged(COMMIT, "DONE")


@case("epoch.durable", RESTART)
async def durable(peer: Peer) -> None:
    """The highest epoch is durable before anything is done in its session."""
    await peer.reconnect(epoch=peer.epoch + 1)
    await peer.kill_and_accept()
    await _is_refused(peer)
    await peer.connect()


async def _meets_a_stale_coordinator(peer: Peer) -> None:
    peer.lose()
    await peer.accept()
    await _is_refused(peer)


async def _is_refused(peer: Peer) -> None:
    branches = [*peer.reports, *peer._mine]
    aborts = [participant_pb2.Decision(transaction_id=one, kind=participant_pb2.DECISION_KIND_ABORT) for one in branches]
    peer.welcome(epoch=peer.epoch - 1)
    stream = peer.stream
    stream.say(participant_pb2.SessionResponse(decisions=aborts))
    await peer.hears_the_end("a coordinator with a lower epoch welcomed it")
    reported = [one for one in branches if peer.said("reports", one)]
    expect(not reported, "it listed its branches to a stale coordinator")


async def _follows_not(peer: Peer, why: str, **fields: Any) -> None:
    """A Welcome with these fields is no coordinator to follow; the right one is followed again, and has lost nothing."""
    branch = peer.branch()
    await branch.prepared()
    peer.lose()
    await peer.accept()
    epoch = peer.epoch
    peer.welcome(**fields)
    peer.epoch = epoch
    peer.stream.say(participant_pb2.SessionResponse(decisions=[branch.decision_message(ABORT)]))
    await peer.hears_the_end(f"{why} welcomed it")
    expect(not peer.said("reports", branch.transaction_id), f"it listed its branches to {why}")
    await peer.connect()
    report = peer.reports.get(branch.transaction_id)
    if report is None or report.state != participant_pb2.BRANCH_STATE_PREPARED:
        raise Broken(f"the PREPARED branch is not listed any more: {why} was obeyed")
    await branch.acknowledged(COMMIT, "DONE")


@case("coordinator.another-log")
async def another_log(peer: Peer) -> None:
    """A Welcome under the same name, but of another log, is refused, whatever its epoch: nothing is done or listed for it."""
    await _follows_not(peer, "a coordinator of another log", log_id="5" * 32, epoch=peer.epoch)


@case("coordinator.another-nonce")
async def another_nonce(peer: Peer) -> None:
    """A Welcome of the same epoch with another nonce is a copy that began the epoch again: it is refused."""
    await _follows_not(peer, "a coordinator of the same epoch with another nonce", nonce="0badcafe")


@case("coordinator.log-is-durable", RESTART)
async def log_is_durable(peer: Peer) -> None:
    """The log that a coordinator's name belongs to is durable before anything of the session is done: it is known after a kill."""
    await peer.branch().prepared()
    await peer.kill_and_accept()
    peer.welcome(log_id="5" * 32)
    await peer.hears_the_end("after a restart a coordinator of another log welcomed it")
    await peer.connect()


@case("coordinator.another-name")
async def another_name(peer: Peer) -> None:
    """A coordinator of another name is followed as one of its own: work goes on, and what is in doubt with the first stays so."""
    branch, mine, log, epoch = peer.branch(), peer.name, peer.log_id, peer.epoch
    await branch.prepared()
    peer.lose()
    mark, peer.watermark = peer.watermark, (0, 0)
    peer.name, peer.log_id, peer.epoch = f"{mine}-2", "6" * 32, 1
    try:
        await peer.connect()
        await peer.committed()
        peer.say(decisions=[branch.decision_message(ABORT)])  # not its own to decide
        await asyncio.sleep(peer.quiet_seconds)
        peer.lose()
    finally:
        peer.name, peer.log_id, peer.epoch, peer.watermark = mine, log, epoch, mark
    await peer.connect()
    expect(branch.transaction_id in peer.reports, "what was in doubt with the first coordinator is not listed to it any more")
    await branch.acknowledged(COMMIT, "DONE")


@case("epoch.implausible")
async def implausible(peer: Peer) -> None:
    """A Welcome whose epoch is more than a million above the highest that was seen is refused: nobody can have started so often."""
    await _follows_not(peer, "a coordinator of an epoch that cannot be", epoch=peer.epoch + 5_000_000)


@case("epoch.higher")
async def higher(peer: Peer) -> None:
    """A Welcome with a higher epoch is taken, and branches in doubt of earlier epochs are listed to it."""
    branch = peer.branch()
    await branch.prepared()
    await peer.reconnect(epoch=peer.epoch + 1)
    expect(branch.transaction_id in peer.reports, "the PREPARED branch of the earlier epoch is not listed")
    await branch.acknowledged(COMMIT, "DONE")
    await peer.branch().prepared()
