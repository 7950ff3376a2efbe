"""What clients ask: runs, commits, aborts and questions; sessions, and idempotency keys.

A number is answered once, and again after each reconnection until the client has acknowledged the answer. What a key means is in
`keys`.
"""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.core.beginning import begin_late, create, drop_announced, is_repeat, is_unused, learn_terms
from coordinator.core.book import Book, cause_of
from coordinator.core.checks import (
    check_allowed,
    check_branches,
    check_common,
    check_connected,
    check_key,
    check_questions,
    check_room,
    check_skew,
)
from coordinator.core.deciding import name_branches, start
from coordinator.core.finishing import forsake, is_expired
from coordinator.core.forgetting import gone_of
from coordinator.core.keys import (
    answer_question,
    claim_of,
    get_by_key,
    is_told_at_once,
    join,
    not_known,
    wait_for_settlement,
)
from coordinator.core.model import ACTIVE, BranchStep, Session, State, Transaction
from coordinator.core.one_phase import settle
from coordinator.core.owners import acting, why_not_his
from coordinator.core.refusing import cause_of_refusal, refuse
from coordinator.core.slots import members
from coordinator.core.steps import abort
from coordinator.core.transitions import Input, apply
from troth.errors import Reason, RequestError
from troth.ids import TransactionId
from troth.v1 import client_pb2, common_pb2

SESSION_TIMER = "session/"
"""What the name of a session's timer begins with; those of transactions are their ids."""


# ---- sessions


def open_session(book: Book, event: events.SessionOpened) -> None:
    """A stream began or resumed a session: repeat what is owed."""
    session = book.sessions.get(event.session)
    if session is None:
        unary = event.session.endswith(".0")
        book.last_session = max(book.last_session, int(event.session.rpartition(".")[2]))
        book.sessions[event.session] = Session(event.session, event.client, event.owner, keeps_answers=not unary)
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
        forsake(book, txn, session)
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
    if session.announced:
        drop_announced(book, session, session.answered_below)


# ---- one-shot


def run(book: Book, event: events.Run) -> None:
    """A one-shot transaction."""
    session = book.sessions.get(event.session)
    request = event.request
    number = request.number
    if session is None:
        return
    transaction_id = f"{session.name}.{number}"
    if is_repeat(book, session, number, transaction_id):
        return
    try:
        # Lists: protobuf's own containers end a loop over them by an exception.
        branches = request.branches[:]
        check_key(book, number, request)
        owner = acting(session, event.caller)
        claim = claim_of(request.key, owner, branches)
        if claim is not None and (unknown := not_known(book, number, transaction_id)) is not None:
            book.ready.effects.append(effects.Answered(session.name, unknown))
            return
        # Before anything else is refused: of a key that is committed nobody is told "aborted", whatever is wrong with the retry.
        if claim is not None and join(book, session, event, claim):
            return
        check_allowed(event)
        check_common(book, session, number, request, owner)
        works, payload = check_branches(book, branches)
        check_room(book, request.key, payload)
        check_connected(works)
    except RequestError as error:
        refuse(book, session, number, transaction_id, error)
        return
    txn = create(book, session, number, transaction_id, request, claim, owner)
    txn.wait_complete = request.wait == common_pb2.WAIT_COMPLETE
    txn.asked = True
    book.hold_arguments(txn, payload)
    txn.eldest_ms = book.undecided.begin(txn)
    for participant, operations in works:
        book.add_branch(txn, participant).operations = operations
    start(book, txn)


# ---- ending


def commit(book: Book, event: events.Commit) -> None:
    """The client asks to commit; this may be the first that is heard of the transaction."""
    request = event.request
    terms = request.begin if request.HasField("begin") else None
    _end(book, event, Input.COMMIT, request, terms)


def abort_request(book: Book, event: events.Abort) -> None:
    """The client asks to roll back; whoever it names is told, enlisted or not."""
    cause = cause_of(Reason.CLIENT_ABORT, "the client rolled it back")
    terms = client_pb2.BeginRequest(timeout_ms=1) if event.request.acknowledged else None
    _end(book, event, Input.ABORT, cause, terms)


def _end(
    book: Book, event: events.Commit | events.Abort, what: Input, argument: client_pb2.CommitRequest | common_pb2.Cause,
    terms: client_pb2.BeginRequest | None,
) -> None:  # fmt: skip
    session, request = book.sessions.get(event.session), event.request
    if session is None:
        return
    number = request.number
    transaction_id = request.transaction_id or f"{session.name}.{number}"
    if (his := why_not_his(book, transaction_id, acting(session, event.caller))) is not None:
        _answer_unknown(book, session, number, transaction_id, his)
        return
    if terms is not None and not _begun(book, session, number, terms, what):
        return
    if number not in session.live and number not in session.answers and not book.has_room(session):
        message = f"{len(session.answers)} answers are not acknowledged by the client"
        if what is Input.ABORT and is_unused(book, session, number):
            refuse(book, session, number, transaction_id, RequestError(Reason.CLIENT_ABORT, message))  # never begun, nor to be
        else:
            _answer_unknown(book, session, number, transaction_id, cause_of(Reason.OVERLOADED, message))
        return
    txn = book.live.get(transaction_id)
    if txn is None:
        # A run that joined the holder of its key cannot end that one; it is answered with it.
        if number not in session.live:
            _end_finished(book, session, number, transaction_id, what)
        return
    if is_told_at_once(txn):
        book.answer(session, book.make_answer(txn, number))
        return
    txn.wait_for(session, number)
    session.live[number] = txn
    if what is Input.ABORT and txn.state is ACTIVE:
        name_branches(book, txn, request.acknowledged[:])
    apply(book, txn, what, argument)


def _begun(book: Book, session: Session, number: int, terms: client_pb2.BeginRequest, what: Input) -> bool:
    """Begin what ends here and has not begun. False when it was refused, and its commit is answered."""
    try:
        if number in session.announced:
            if what is Input.COMMIT:
                learn_terms(book, session, number, terms)
        elif is_unused(book, session, number):
            begin_late(book, session, number, terms)
    except RequestError as error:
        if what is Input.COMMIT:
            if is_unused(book, session, number):
                refuse(book, session, number, f"{session.name}.{number}", error)
            return False
        # An abort needs no room: it is an abort of what never began, and whoever has a branch finds out by announcing it.
    return True


def _end_finished(book: Book, session: Session, number: int, transaction_id: str, what: Input) -> None:
    stored = session.answers.get(number)
    done = book.finished.get(transaction_id)
    if stored is not None:
        book.ready.effects.append(effects.Answered(session.name, stored))
    elif done is not None:
        answer = book.answer_finished(transaction_id, done, number)
        answer.replayed = False
        book.answer(session, answer)
    elif what is Input.ABORT and is_unused(book, session, number):
        # It never began here, and from now on its number is used: an abort from knowledge.
        refuse(book, session, number, transaction_id, RequestError(Reason.CLIENT_ABORT, "it was rolled back before it began"))
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
    if request.key and get_by_key(book, event):
        return
    if request.key and (unknown := not_known(book, 0, request.transaction_id)) is not None:
        answer_question(book, event, unknown)
        return
    if (cause := why_not_his(book, request.transaction_id, event.caller)) is not None:
        outcome = common_pb2.OUTCOME_IN_DOUBT
        answer_question(book, event, client_pb2.Answer(transaction_id=request.transaction_id, outcome=outcome, cause=cause))
        return
    txn = book.live.get(request.transaction_id)
    done = book.finished.get(request.transaction_id)
    if txn is not None and txn.state is State.SETTLING:
        wait_for_settlement(book, txn, event)
    elif txn is not None:
        answer_question(book, event, book.make_answer(txn, 0))
    elif done is not None:
        answer_question(book, event, book.answer_finished(request.transaction_id, done, 0))
    else:
        _get_unknown(book, event)


def _get_unknown(book: Book, event: events.Get) -> None:
    request = event.request
    try:
        parsed = TransactionId.parse(request.transaction_id)
        outcome, cause = _judge_unknown(book, parsed, request)
    except RequestError as error:
        outcome, cause = common_pb2.OUTCOME_IN_DOUBT, cause_of_refusal(error)
    if cause is None:
        _settle_for(book, event)
        return
    answer_question(book, event, client_pb2.Answer(transaction_id=request.transaction_id, outcome=outcome, cause=cause))


def _judge_unknown(
    book: Book, parsed: TransactionId, request: client_pb2.GetRequest
) -> tuple[common_pb2.Outcome.ValueType, common_pb2.Cause | None]:
    """What can be said of an id that is neither live nor retained; a cause of `None` means: settle it."""
    if parsed.coordinator != book.coordinator or parsed.epoch > book.epoch:
        message = f"{parsed} belongs to another coordinator, or to a later life of this one"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    # By the id too: the time is what the client says, and who was dropped as a commit would be settled as rolled back.
    if (request.first_attempt_ms and is_expired(book, request.first_attempt_ms)) or book.dropped.covers(parsed):
        return common_pb2.OUTCOME_EXPIRED, cause_of(Reason.EXPIRED, f"{parsed} is older than what is kept")
    owed = _owed_refusal(book, parsed)
    if owed is not None:
        return common_pb2.OUTCOME_ABORTED, owed
    if not (request.participants and request.first_attempt_ms):
        message = f"nothing is known of {parsed}; name its participants and first_attempt_ms to have it settled"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    if not book.began(parsed):
        message = f"{parsed} is of a life that this log did not begin: of another log of this name, or of a copy of this one"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    if not book.may_have_begun(parsed):
        # Its client could still begin it: that would make liars of us.
        message = f"{parsed} has not begun, and its session is open or yet to come"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_TRANSACTION, message)
    check_questions(book)
    check_skew(book, request.first_attempt_ms)
    if len(request.participants) > book.settings.participants_max:
        message = f"{len(request.participants)} participants; at most {book.settings.participants_max} are allowed"
        raise RequestError(Reason.TOO_MANY_PARTICIPANTS, message)
    unknown = [name for name in request.participants if not members(book, name)]
    if unknown:
        message = f"no participant {', '.join(unknown)[:200]!r} has ever connected"
        return common_pb2.OUTCOME_IN_DOUBT, cause_of(Reason.UNKNOWN_PARTICIPANT, message)
    if (gone := gone_of(book, request.participants, parsed.epoch)) is not None:
        name, may_tell = gone
        until = "nothing can be told before it is back" if may_tell else "several logs had had that name, and none can tell for all"
        message = f"{name} may have it, and was forgotten by an operator: {until}"
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
    txn.tickets = (event,)
    of_this_epoch = TransactionId.parse(txn.id).epoch == book.epoch
    for one in dict.fromkeys(one for name in request.participants for one in members(book, name)):
        if of_this_epoch:
            # An order of its own: otherwise the tombstone that the question may leave is remembered until another epoch comes.
            book.add_branch(txn, book.participants[one])
        else:
            book.add_recovered_branch(txn, one, 0, BranchStep.SETTLE_OWED)
    book.live[txn.id] = txn
    book.asking.add(txn.id)
    settle(book, txn)
