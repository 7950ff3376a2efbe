"""What should be given back: each counter equals what it counts, at any time, and nothing is left when nobody waits for anything.

A coordinator that keeps a ticket, a pin or some bytes of whatever is over serves well, for months. So nothing that only looks at
answers finds it, and this checker looks at the books.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from coordinator.core.book import Book
from coordinator.core.kept import bytes_kept
from coordinator.core.model import BranchStep, Session, State, Transaction, scoped
from tests.sim.checkers import checker
from tests.sim.scene import Scene
from troth.v1 import common_pb2

NAME = "nothing is left at the coordinator"


def inconsistent(book: Book) -> Iterator[str]:
    """Counters and indexes that are not what they count, in a book at any moment between two events."""
    yield from _counters(book)
    yield from _keys(book)
    for session in book.sessions.values():
        yield from _session(book, session)
    for txn in book.live.values():
        yield from _awaited(book, txn)
    yield from _pins(book)


def _counters(book: Book) -> Iterator[str]:
    finished = book.finished.values()
    held = [answer for session in book.sessions.values() for answer in session.answers.values()]
    listing = {name for name, one in book.participants.items() if one.reports}
    counted = {
        "recorded transactions": (book.recorded, sum(done.recorded for done in finished)),
        "bytes of kept results": (book.result_bytes, sum(len(data) for done in finished for data in (done.results or {}).values())),
        "bytes of results under keys": (book.kept_bytes, bytes_kept(book)),
        "bytes of unseen answers": (book.unseen_bytes, sum(answer.ByteSize() for answer in held)),
        "bytes of open transactions": (book.open_bytes, sum(txn.held_bytes for txn in book.live.values())),
        "participants that list": ({name for name, one in book.participants.items() if one.report_bytes}, listing),
        "open transactions of identities": (+book.owned, Counter(txn.owner for txn in book.live.values() if txn.owner)),
        "late heuristics": (book.late_heuristics, sum(txn.late for txn in book.live.values())),
        "places in the order of eviction": (len(book.other_finished) + len(book.keyed_commits), len(finished)),
    }
    for what, (says, is_so) in counted.items():
        if says != is_so:
            yield f"it counts {says} {what}, and has {is_so}"
    if {*book.other_finished, *book.keyed_commits} != book.finished.keys():
        yield "what is to be dropped in order is not what is finished"


def _keys(book: Book) -> Iterator[str]:
    for key, entry in book.keys.items():
        done = book.finished.get(entry.transaction_id)
        if entry.live is None:
            if done is None or done.outcome != common_pb2.OUTCOME_COMMITTED:
                yield f"the key {key} is held by {entry.transaction_id}, which is no commit that is kept"
        elif book.live.get(entry.transaction_id) is not entry.live:
            yield f"the key {key} is held by {entry.transaction_id}, which is not live"
    for txn in book.live.values():
        if txn.claim is not None and not txn.late and getattr(book.keys.get(scoped(txn.claim)), "live", None) is not txn:
            yield f"{txn.id} is live, and does not hold its key {txn.claim.key}"
    for name in book.keyed_commits:
        claim = book.finished[name].claim
        if claim is not None and getattr(book.keys.get(scoped(claim)), "transaction_id", "") != name:
            yield f"{name} has committed, and does not hold its key {claim.key}"


def _session(book: Book, session: Session) -> Iterator[str]:
    kept = sum(answer.ByteSize() for answer in session.answers.values())
    if session.unseen_bytes != kept:
        yield f"{session.name} counts {session.unseen_bytes} bytes of answers, and keeps {kept}"
    if any(number < session.answered_below for number in session.answers):
        yield f"{session.name} keeps answers that its client has acknowledged"
    waiting = {(one.event.session, one.event.request.number) for joiners in book.joiners.values() for one in joiners}
    for number, txn in session.live.items():
        own = txn.session is session and txn.number == number
        if book.live.get(txn.id) is not txn:
            yield f"{session.name} waits under {number} for {txn.id}, which is not live"
        elif not own and (session.name, number) not in (txn.joined or {}) and (session.name, number) not in waiting:
            yield f"{session.name} waits under {number} for {txn.id}, which will not answer it"


def _awaited(book: Book, txn: Transaction) -> Iterator[str]:
    for name, number in txn.joined or {}:
        session = book.sessions.get(name)
        if session is None or session.live.get(number) is not txn:
            yield f"{txn.id} will answer {name} under {number}, which does not wait for it"
    if txn.asked and (txn.session is None or txn.session.live.get(txn.number) is not txn):
        yield f"{txn.id} will answer its own client, which does not wait for it"


def _pins(book: Book) -> Iterator[str]:
    for participant in book.participants.values():
        pinned = [*participant.recovered.values(), *participant.unended.values()]
        for txn in pinned:
            branch = txn.branches.get(participant.name)
            if branch is None or (book.live.get(txn.id) is not txn and txn.state is not State.COMMITTED):
                yield f"{txn.id} is over, and pins the watermark of {participant.name}"
            elif branch.step is BranchStep.OVER and txn.state is State.HEURISTIC:
                yield f"{participant.name} has done with {txn.id}, which pins its watermark"
    if not book.asking <= book.live.keys():
        yield f"{sorted(book.asking - book.live.keys())} are counted as questions, and are not live"


def left(book: Book) -> Iterator[str]:
    """What is still held when nothing is under way and everybody was answered."""
    open_ids = {txn.id for txn in book.live.values()}
    held: dict[str, Any] = {
        "retries that wait": book.joiners,
        "watchers": book.watchers,
        "answers to operators": book.answers_held,
        "events to come": book.again,
        "questions": [name for name in book.asking if book.live[name].state is not State.HEURISTIC],
        "tickets": [txn.id for txn in book.live.values() if txn.tickets],
        "timers": [name for name in book.timers._slot_of if name.partition("/")[0] not in ("session", "housekeeping")],
        "a horizon under way": [book.evicting] if book.evicting else [],
    }
    for participant in book.participants.values():
        held[f"branches that pin {participant.name}"] = [
            txn.id for txn in (*participant.recovered.values(), *participant.unended.values()) if txn.id not in open_ids
        ]
        held[f"questions to {participant.name}"] = participant.questions
        held[f"reports of {participant.name}"] = participant.reports
        held[f"doubts of {participant.name}"] = [name for name in participant.in_doubt if name not in open_ids]
        held[f"what {participant.name} was given up of"] = [name for name in participant.given_up if name not in open_ids]
    for what, there in held.items():
        if there:
            yield f"there are {what} left: {list(there)}"


@checker(NAME)
def counters_agree(scene: Scene) -> Iterator[str]:
    """Every counter is what it counts, in a coordinator that has come far."""
    yield from inconsistent(scene.coordinator.core._book)


@checker(NAME)
def nothing_left_at_the_coordinator(scene: Scene) -> Iterator[str]:
    """When nobody waits for anything, every counter is what it counts, and no ticket, pin, timer, key or byte is left."""
    book = scene.coordinator.core._book
    yield from inconsistent(book)
    yield from left(book)
    for name in (*book.live, *book.finished):
        if name not in scene.history.attempts:
            yield f"there is {name}, which nobody began"
