"""What clients ask: runs, begins, commits, aborts and questions; sessions, and idempotency keys.

A number is answered once, and again after each reconnection until the client has acknowledged the answer. A key means *at most
one commit*: a one-shot retry joins what is running, is told the committed outcome if there is one, and runs again after an
abort. An interactive begin never joins, because its caller will do work of its own: it aborts an undecided holder.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from coordinator.core import effects, events
from coordinator.core.book import Book, cause_of
from coordinator.core.checks import check_branches, check_common, check_connected, check_room, check_skew
from coordinator.core.deciding import start
from coordinator.core.finishing import is_expired
from coordinator.core.model import ACTIVE, BranchStep, KeyEntry, Session, State, Transaction
from coordinator.core.one_phase import answer_in_time, settle
from coordinator.core.steps import abort
from coordinator.core.transitions import Input, apply
from troth.errors import Reason, RequestError
from troth.ids import TransactionId
from troth.v1 import client_pb2, common_pb2, record_pb2

SESSION_TIMER = "session/"
"""What the name of a session's timer begins with; those of transactions are their ids."""
TRACE_BYTES_MAX = 1_024
"""Of trace context; a longer one is dropped, as W3C's recommendation says."""
TICKETS_MAX = 1_000
"""Questions that wait for one settlement; further ones are answered IN_DOUBT at once."""

INTERACTIVE_HASH = sha256(b"interactive").digest()
"""The body of every interactive transaction: its work is not known beforehand."""


# ---- sessions


def open_session(book: Book, event: events.SessionOpened) -> None:
    """A stream began or resumed a session: repeat what is owed."""
    session = book.sessions.get(event.session)
    if session is None:
        unary = event.session.endswith(".0")
        book.last_session = max(book.last_session, int(event.session.rpartition(".")[2]))
        book.sessions[event.session] = Session(event.session, keeps_answers=not unary)
        return
    session.connected = True
    book.timers.cancel(_session_timer(session))
    for answer in session.answers.values():
        book.ready.effects.append(effects.Answered(session.name, answer))


def lose_session(book: Book, event: events.SessionLost) -> None:
    """A stream ended; the client has some seconds to come back."""
    session = book.sessions.get(event.session)
    if session is not None:
        session.connected = False
        book.timers.set(_session_timer(session), book.now.monotonic + book.settings.session_linger_seconds)


def end_session(book: Book, name: str) -> None:
    """The client did not come back: what it had not asked to commit is aborted, everything else goes on."""
    session = book.sessions.pop(name)
    for number in list(session.answers):
        book.drop_answer(session, number)
    for txn in list(session.live.values()):
        txn.forsake(session)
        if txn.state is State.ACTIVE and txn.session is session:
            abort(book, txn, cause_of(Reason.CLIENT_GONE, f"the client of {txn.id} was gone for too long"))


def _session_timer(session: Session) -> str:
    return SESSION_TIMER + session.name


def see_answers(book: Book, event: events.AnswersSeen) -> None:
    """Drop the answers that the client has."""
    session = book.sessions.get(event.session)
    if session is None:
        return
    if event.below > session.answered_below + len(session.answers):
        for number in [number for number in session.answers if number < event.below]:
            book.drop_answer(session, number)
    else:
        for number in range(session.answered_below, event.below):
            book.drop_answer(session, number)
    session.answered_below = max(session.answered_below, event.below)


def _is_repeat(book: Book, session: Session, number: int, transaction_id: str) -> bool:
    """Whether a number was used before; if so it is answered, or will be."""
    if session.keeps_answers and 0 < number < session.answered_below:
        return True
    answer = session.answers.get(number)
    if answer is not None:
        book.ready.effects.append(effects.Answered(session.name, answer))
    # A transaction that nobody has asked about since it was aborted has no answer yet; its number is used all the same.
    return answer is not None or number in session.live or transaction_id in book.finished or transaction_id in book.live


# ---- beginning


def run(book: Book, event: events.Run) -> None:
    """A one-shot transaction."""
    session = book.sessions.get(event.session)
    request = event.request
    number = request.number
    if session is None:
        return
    transaction_id = f"{session.name}.{number}"
    if _is_repeat(book, session, number, transaction_id):
        return
    try:
        check_common(book, session, number, request)
        # Lists: protobuf's own containers end a loop over them by an exception.
        branches = request.branches[:]
        works = check_branches(book, branches)
        key = request.key
        claim = _claim(key, _body_hash(branches)) if key else None
        if claim is not None and _join(book, session, event, claim):
            return
        check_room(book, key)
        check_connected(works)
    except RequestError as error:
        book.refuse(session, number, transaction_id, _cause_of_error(error))
        return
    txn = _create(book, session, number, transaction_id, request, claim)
    txn.wait_complete = request.wait == common_pb2.WAIT_COMPLETE
    txn.asked = True
    for participant, operations in works:
        book.add_branch(txn, participant).operations = operations
    start(book, txn)


def begin(book: Book, event: events.Begin) -> None:
    """An interactive transaction."""
    session = book.sessions.get(event.session)
    request = event.request
    if session is None:
        return
    transaction_id = f"{session.name}.{request.number}"
    response = client_pb2.BeginResponse(number=request.number, transaction_id=transaction_id)
    if not _is_repeat(book, session, request.number, transaction_id):
        try:
            check_common(book, session, request.number, request)
            claim = _claim(request.key, INTERACTIVE_HASH) if request.key else None
            holder = None if claim is None else _take_over(book, claim)
            if holder is None:
                check_room(book, request.key)
                txn = _create(book, session, request.number, transaction_id, request, claim)
                txn.interactive = True
                book.timers.set(txn.id, txn.deadline)
            else:
                holder.number = request.number
                response.holder.CopyFrom(holder)
        except RequestError as error:
            response.transaction_id = ""
            response.refusal.CopyFrom(_cause_of_error(error))
    book.ready.effects.append(effects.Begun(session.name, response))


def _create(
    book: Book, session: Session, number: int, transaction_id: str,
    request: client_pb2.RunRequest | client_pb2.BeginRequest, claim: record_pb2.KeyClaim | None,
) -> Transaction:  # fmt: skip
    txn = Transaction(transaction_id, session, number, ACTIVE)
    txn.claim = claim
    txn.first_attempt_ms = request.first_attempt_ms or book.clock_ms
    txn.began = book.now.monotonic
    txn.deadline = txn.began + request.timeout_ms / 1000
    txn.hold_read_locks = request.hold_read_locks
    if request.HasField("trace") and request.trace.ByteSize() <= TRACE_BYTES_MAX:
        txn.trace = request.trace
    book.live[transaction_id] = txn
    session.live[number] = txn
    if claim is not None:
        book.keys[claim.key] = KeyEntry(claim, txn.id, txn)
    book.counters.started += 1
    return txn


# ---- keys


def _cause_of_error(error: RequestError) -> common_pb2.Cause:
    return cause_of(error.reason, error.message)


def _claim(key: str, body_hash: bytes) -> record_pb2.KeyClaim:
    return record_pb2.KeyClaim(key=key, body_hash=body_hash)


def _body_hash(branches: Iterable[client_pb2.BranchRequest]) -> bytes:
    digest = sha256()
    for work in branches:
        # Lengths go in too: without them two different bodies could be hashed as one text.
        for part in (work.participant.encode(), *_parts(work)):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.digest()


def _parts(work: client_pb2.BranchRequest) -> Iterable[bytes]:
    yield len(work.operations).to_bytes(8, "big")
    for operation in work.operations:
        yield operation.name.encode()
        yield operation.arguments


def _holder(book: Book, claim: record_pb2.KeyClaim) -> KeyEntry | None:
    entry = book.keys.get(claim.key)
    if entry is not None and entry.claim.body_hash != claim.body_hash:
        raise RequestError(Reason.KEY_REUSED, f"the key {claim.key[:80]!r} belongs to another request, {entry.transaction_id}")
    return entry


def _join(book: Book, session: Session, event: events.Run, claim: record_pb2.KeyClaim) -> bool:
    """Let a one-shot retry join the holder of its key, if there is one."""
    entry = _holder(book, claim)
    if entry is None:
        return False
    number = event.request.number
    if entry.live is None:
        done = book.finished[entry.transaction_id]
        book.answer(session, book.answer_finished(entry.transaction_id, done, number))
    elif entry.live.state is State.SETTLING:
        session.live[number] = entry.live
        book.joiners.setdefault(entry.transaction_id, []).append(event)
    elif _is_told_at_once(entry.live):
        book.answer(session, book.make_answer(entry.live, number, replayed=True))
    else:
        session.live[number] = entry.live
        entry.live.wait_for(session, number)
    return True


def _take_over(book: Book, claim: record_pb2.KeyClaim) -> client_pb2.Answer | None:
    """An interactive begin never joins: it aborts the undecided holder, or is told the outcome, or that it is in doubt."""
    entry = _holder(book, claim)
    if entry is None:
        return None
    if entry.live is None:
        return book.answer_finished(entry.transaction_id, book.finished[entry.transaction_id], 0)
    if entry.live.state in (State.ACTIVE, State.PREPARING):
        abort(book, entry.live, cause_of(Reason.SUPERSEDED, f"another attempt with the key {claim.key[:80]!r} began"))
        return None
    answer = book.make_answer(entry.live, 0, replayed=True)
    if answer.outcome == common_pb2.OUTCOME_IN_DOUBT:
        answer.cause.CopyFrom(cause_of(Reason.IN_DOUBT, f"{entry.transaction_id} holds the key and is being decided"))
    return answer


# ---- ending


def commit(book: Book, event: events.Commit) -> None:
    """The client asks to commit."""
    _end(book, event.session, event.request.number, event.request.transaction_id, Input.COMMIT, event.request)


def abort_request(book: Book, event: events.Abort) -> None:
    """The client asks to roll back."""
    cause = cause_of(Reason.CLIENT_ABORT, "the client rolled it back")
    _end(book, event.session, event.request.number, event.request.transaction_id, Input.ABORT, cause)


def _end(
    book: Book, session_name: str, number: int, transaction_id: str, what: Input,
    argument: client_pb2.CommitRequest | common_pb2.Cause,
) -> None:  # fmt: skip
    session = book.sessions.get(session_name)
    if session is None:
        return
    transaction_id = transaction_id or f"{session.name}.{number}"
    if number not in session.live and number not in session.answers and not session.has_room(book.settings.unseen_answers_max):
        message = f"{len(session.answers)} answers are not acknowledged by the client"
        _answer_unknown(book, session, number, transaction_id, cause_of(Reason.OVERLOADED, message))
        return
    txn = book.live.get(transaction_id)
    if txn is None:
        # A run that joined the holder of its key cannot end that one; it is answered with it.
        if number not in session.live:
            _end_finished(book, session, number, transaction_id, what)
        return
    if _is_told_at_once(txn):
        book.answer(session, book.make_answer(txn, number))
        return
    txn.wait_for(session, number)
    session.live[number] = txn
    apply(book, txn, what, argument)


def _is_told_at_once(txn: Transaction) -> bool:
    """Whether whoever asks to end an open transaction, or joins it, waits for nothing any more."""
    return txn.state is State.HEURISTIC or (txn.state is State.COMMITTING and not txn.wait_complete)


def _end_finished(book: Book, session: Session, number: int, transaction_id: str, what: Input) -> None:
    stored = session.answers.get(number)
    done = book.finished.get(transaction_id)
    if stored is not None:
        book.ready.effects.append(effects.Answered(session.name, stored))
    elif done is not None:
        answer = book.answer_finished(transaction_id, done, number)
        answer.replayed = False
        book.answer(session, answer)
    elif what is Input.ABORT and session.keeps_answers and number >= session.answered_below:
        # It never began here, and from now on its number is used: an abort from knowledge.
        cause = cause_of(Reason.CLIENT_ABORT, "it was rolled back before it began")
        book.refuse(session, number, transaction_id, cause)
    else:
        cause = cause_of(Reason.UNKNOWN_TRANSACTION, f"nothing is known of {transaction_id[:120]!r}")
        _answer_unknown(book, session, number, transaction_id, cause)


def _answer_unknown(book: Book, session: Session, number: int, transaction_id: str, cause: common_pb2.Cause) -> None:
    """An answer that is not kept, because nothing is known."""
    answer = client_pb2.Answer(number=number, transaction_id=transaction_id, outcome=common_pb2.OUTCOME_IN_DOUBT, cause=cause)
    book.ready.effects.append(effects.Answered(session.name, answer))


# ---- asking


def get(book: Book, event: events.Get) -> None:
    """What is known of a transaction; with participants named, an unknown one is settled."""
    request = event.request
    txn = book.live.get(request.transaction_id)
    done = book.finished.get(request.transaction_id)
    if txn is not None and txn.state is State.SETTLING and len(txn.tickets) < TICKETS_MAX:
        txn.tickets += (event.ticket,)
        answer_in_time(book, txn, book.now.monotonic)
    elif txn is not None:
        book.ready.effects.append(effects.Got(event.ticket, book.make_answer(txn, 0)))
    elif done is not None:
        book.ready.effects.append(effects.Got(event.ticket, book.answer_finished(request.transaction_id, done, 0)))
    else:
        _get_unknown(book, event)


def _get_unknown(book: Book, event: events.Get) -> None:
    request = event.request
    try:
        parsed = TransactionId.parse(request.transaction_id)
        outcome, cause = _judge_unknown(book, parsed, request)
    except RequestError as error:
        outcome, cause = common_pb2.OUTCOME_IN_DOUBT, _cause_of_error(error)
    if cause is None:
        _settle_for(book, event)
        return
    answer = client_pb2.Answer(transaction_id=request.transaction_id, outcome=outcome, cause=cause)
    book.ready.effects.append(effects.Got(event.ticket, answer))


def _judge_unknown(
    book: Book, parsed: TransactionId, request: client_pb2.GetRequest
) -> tuple[common_pb2.Outcome.ValueType, common_pb2.Cause | None]:
    """What can be said of an id that is neither live nor retained; a cause of `None` means: settle it."""
    if parsed.coordinator != book.coordinator or parsed.epoch > book.epoch:
        message = f"{parsed} belongs to another coordinator, or to a later life of this one"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    if request.first_attempt_ms and is_expired(book, request.first_attempt_ms):
        return common_pb2.OUTCOME_EXPIRED, cause_of(Reason.EXPIRED, f"{parsed} is older than what is kept")
    owed = _owed_refusal(book, parsed)
    if owed is not None:
        return common_pb2.OUTCOME_ABORTED, owed
    if not (request.participants and request.first_attempt_ms):
        message = f"nothing is known of {parsed}; name its participants and first_attempt_ms to have it settled"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    if not book.may_have_begun(parsed):
        # Its client could still begin it: that would make liars of us.
        message = f"{parsed} has not begun, and its session is open or yet to come"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    check_room(book, "")
    check_skew(book, request.first_attempt_ms)
    if len(request.participants) > book.settings.participants_max:
        message = f"{len(request.participants)} participants; at most {book.settings.participants_max} are allowed"
        raise RequestError(Reason.TOO_MANY_PARTICIPANTS, message)
    unknown = [name for name in request.participants if name not in book.participants]
    if unknown:
        message = f"no participant {', '.join(unknown)[:200]!r} has ever connected"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_PARTICIPANT, message)
    return common_pb2.OUTCOME_IN_DOUBT, None


def _owed_refusal(book: Book, parsed: TransactionId) -> common_pb2.Cause | None:
    """Why a transaction was refused before it began, as long as its client has not acknowledged that."""
    session = book.sessions.get(parsed.session_prefix)
    answer = session.answers.get(parsed.number) if session is not None else None
    if answer is None or answer.outcome != common_pb2.OUTCOME_ABORTED or answer.transaction_id != str(parsed):
        return None
    return answer.cause


def _settle_for(book: Book, event: events.Get) -> None:
    """Ask the named participants, and answer when all have said, or after a while that it is in doubt."""
    request = event.request
    txn = Transaction(request.transaction_id, None, 0, State.SETTLING)
    txn.first_attempt_ms = request.first_attempt_ms
    txn.began = txn.deadline = book.now.monotonic
    txn.tickets = (event.ticket,)
    for name in dict.fromkeys(request.participants):
        book.add_recovered_branch(txn, name, 0, BranchStep.SETTLE_OWED)
    book.live[txn.id] = txn
    settle(book, txn)
