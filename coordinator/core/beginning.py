"""How a transaction begins: one-shot, interactive, or late, with the commit, the abort or the first branch that is announced.

A client numbers its transactions, so an interactive one needs no answer before its work begins, and of a short one the
coordinator hears with its commit. Each number begins once: the first message that names it begins the transaction, be it Begin, a
commit that says what Begin would have said, an abort that names branches, or a branch that is announced (Enlist, or Hello). An
announced transaction is live like any other, so that the client's abort, its death, the timer and an operator find the branch;
until its client has said how long it may take, it gets as long as a client may be away.
"""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.core.book import Book, cause_of
from coordinator.core.checks import check_allowed, check_common, check_key, check_room, check_timeout
from coordinator.core.deciding import say_enlisted
from coordinator.core.keys import claim_of, not_known, outcome_of_holder, supersede
from coordinator.core.model import ACTIVE, KeyEntry, Session, Transaction, scoped
from coordinator.core.owners import acting
from coordinator.core.refusing import cause_of_refusal, refuse, refused
from coordinator.core.steps import abort
from troth.errors import Reason, RequestError
from troth.ids import TransactionId
from troth.v1 import client_pb2, common_pb2, record_pb2

TRACE_BYTES_MAX = 1_024
"""Of trace context; a longer one is dropped, as W3C's recommendation says."""


def is_repeat(book: Book, session: Session, number: int, transaction_id: str) -> bool:
    """Whether a number was used before; if so it is answered, or will be."""
    if session.keeps_answers and 0 < number < session.answered_below:
        return True
    answer = session.answers.get(number)
    if answer is not None:
        book.ready.effects.append(effects.Answered(session.name, answer))
    return answer is not None or number in session.live or transaction_id in book.finished or transaction_id in book.live


def create(
    book: Book, session: Session, number: int, transaction_id: str,
    request: client_pb2.RunRequest | client_pb2.BeginRequest, claim: record_pb2.KeyClaim | None, owner: str,
) -> Transaction:  # fmt: skip
    """A transaction that is live from now on."""
    txn = Transaction(transaction_id, session, number, ACTIVE)
    txn.claim, txn.owner = claim, owner
    book.owned[owner] += bool(owner)
    txn.began = book.now.monotonic
    txn.steps.append((ACTIVE, txn.began))
    _take_terms(book, txn, request)
    book.live[transaction_id] = txn
    session.live[number] = txn
    if claim is not None:
        book.keys[scoped(claim)] = KeyEntry(claim, txn.id, txn)
    book.counters.started += 1
    return txn


def _take_terms(book: Book, txn: Transaction, request: client_pb2.RunRequest | client_pb2.BeginRequest) -> None:
    txn.first_attempt_ms = request.first_attempt_ms or book.clock_ms
    txn.deadline = book.now.monotonic + request.timeout_ms / 1000
    txn.hold_read_locks = request.hold_read_locks
    if request.HasField("trace") and request.trace.ByteSize() <= TRACE_BYTES_MAX:
        # A copy: a message that is part of another one keeps the whole frame that it came in.
        txn.trace = common_pb2.TraceContext()
        txn.trace.CopyFrom(request.trace)
        txn.traceparent = txn.trace.traceparent


# ---- in time


def begin(book: Book, event: events.Begin) -> None:
    """An interactive transaction; one that a participant has announced learns its terms."""
    session = book.sessions.get(event.session)
    request = event.request
    if session is None:
        return
    number = request.number
    transaction_id = f"{session.name}.{number}"
    response = client_pb2.BeginResponse(number=number, transaction_id=transaction_id)
    is_announced = number in session.announced
    try:
        check_allowed(event)
        if is_announced:
            learn_terms(book, session, number, request)
        elif not is_repeat(book, session, number, transaction_id):
            _begin(book, session, request, transaction_id, response, acting(session, event.caller))
    except RequestError as error:
        response.transaction_id = ""
        # What was announced is a transaction, which aborts, and is counted as such.
        response.refusal.CopyFrom(cause_of_refusal(error) if is_announced else refused(book, error))
    book.ready.effects.append(effects.Begun(session.name, response))


def _begin(
    book: Book, session: Session, request: client_pb2.BeginRequest, transaction_id: str, response: client_pb2.BeginResponse,
    owner: str,
) -> None:  # fmt: skip
    check_key(book, request.number, request)
    claim = claim_of(request.key, owner, None)
    holder = None if claim is None else not_known(book, request.number, transaction_id) or outcome_of_holder(book, claim)
    if holder is None:
        open_interactive(book, session, request, transaction_id, owner, claim)
    else:
        holder.number = request.number
        response.holder.CopyFrom(holder)


def open_interactive(
    book: Book, session: Session, request: client_pb2.BeginRequest, transaction_id: str, owner: str,
    claim: record_pb2.KeyClaim | None = None,
) -> Transaction:  # fmt: skip
    """Begin an interactive transaction. Raises `RequestError` when it may not begin; nothing has changed then."""
    check_common(book, session, request.number, request, owner)
    if claim is not None:
        supersede(book, claim)
    check_room(book, request.key)
    txn = create(book, session, request.number, transaction_id, request, claim, owner)
    txn.interactive = True
    txn.results_lost = True  # its calls got them, from the services; nobody tells them here
    book.timers.set(txn.id, txn.deadline)
    return txn


# ---- late


def is_unused(book: Book, session: Session, number: int) -> bool:
    """Whether a number may still begin: nothing was begun, answered, acknowledged or refused under it."""
    if not session.keeps_answers or number < session.answered_below or number <= session.shed_through:
        return False
    used = number in session.answers or number in session.live
    return not used and f"{session.name}.{number}" not in book.finished


def begin_late(book: Book, session: Session, number: int, request: client_pb2.BeginRequest) -> Transaction:
    """The transaction of a commit or an abort that is the first to name it. Raises `RequestError` when it may not begin."""
    if request.key:
        message = "a keyed transaction begins before its work, and its begin is answered"
        raise RequestError(Reason.INVALID_ARGUMENT, message)
    terms = client_pb2.BeginRequest()
    terms.CopyFrom(request)
    terms.number = number
    check_key(book, number, terms)
    return open_interactive(book, session, terms, f"{session.name}.{number}", session.owner)


def announced(book: Book, transaction_id: str) -> Transaction | None:
    """The transaction of a branch that is announced before its client has said anything of it; `None` when it never began, and
    never will."""
    try:
        parsed = TransactionId.parse(transaction_id)
    except RequestError:
        return None
    session = book.sessions.get(parsed.session_prefix)
    if session is None or not is_unused(book, session, parsed.number):
        return None
    if parsed.number - session.answered_below >= book.settings.unseen_answers_max:
        return None  # nobody is so far ahead of his own answers
    terms = client_pb2.BeginRequest(number=parsed.number, timeout_ms=int(book.settings.session_linger_seconds * 1000) or 1)
    try:
        txn = open_interactive(book, session, terms, transaction_id, session.owner)
    except RequestError as error:
        # As its begin would have been: its number is used, or the client could begin it when the branch is gone.
        refuse(book, session, parsed.number, transaction_id, error)
        return None
    session.announced.add(parsed.number)
    return txn


def learn_terms(book: Book, session: Session, number: int, request: client_pb2.BeginRequest) -> None:
    """What its client says of an announced transaction. Raises `RequestError`, and aborts it, when that cannot be."""
    session.announced.discard(number)
    txn = book.live.get(f"{session.name}.{number}")
    if txn is None or txn.state is not ACTIVE:
        return
    try:
        if request.key:
            raise RequestError(Reason.INVALID_ARGUMENT, "work was done before the begin of a keyed transaction was answered")
        check_key(book, number, request)
        check_timeout(book, request)
    except RequestError as error:
        abort(book, txn, cause_of(error.reason, error.message))
        raise
    _take_terms(book, txn, request)
    book.timers.set(txn.id, txn.deadline)
    for branch in txn.branches.values():
        say_enlisted(book, txn, branch)


def drop_announced(book: Book, session: Session, below: int) -> None:
    """The client has nothing open below a number: what was announced there, it will never ask to commit."""
    for number in [number for number in session.announced if number < below]:
        session.announced.discard(number)
        txn = book.live.get(f"{session.name}.{number}")
        if txn is not None and txn.state is ACTIVE:
            abort(book, txn, cause_of(Reason.CLIENT_ABORT, "its client is done with it, and never asked to commit"))
