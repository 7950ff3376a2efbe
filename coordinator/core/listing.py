"""Listings for operators: filtered, in one order, and in pages. What is over for long is in `coordinator.history`.

A page is bounded in rows and in bytes, so that no listing outgrows a message. Its token names the last row that was seen, and the
order is one of the rows' own (the age and the id of a transaction, the name of a participant): what begins or ends between two
pages makes no other row come twice or go missing, also when a transaction moves from the open ones to the finished.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from heapq import nlargest, nsmallest
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from coordinator.core import blocking, invariants, recalling
from coordinator.core.book import Book, cause_of
from coordinator.core.hello import what_was_lost
from coordinator.core.model import BranchStep, Finished, Participant, State, Transaction, outcome_name
from troth.errors import Reason, RequestError
from troth.ids import check_participant
from troth.v1 import admin_pb2, common_pb2

ROWS_DEFAULT = 100
"""Rows of a page when nobody says how many."""
ROWS_MAX = 1_000
"""Rows of a page at most, whatever is asked for."""
PAGE_BYTES_MAX = 1_048_576
"""Bytes of a page, but for its last row: a quarter of what a gRPC client takes by default."""
TOKEN_CHARACTERS_MAX = 400
STRANDED_MAX = 100
"""Ids of transactions of one kind in one participant's row; `details` has all."""
OPERATIONS_MAX = 100
"""Operations in one participant's row; `details` has all."""
OWED = frozenset({BranchStep.VOTE_OWED, BranchStep.COMMIT_OWED, BranchStep.SETTLE_OWED})

FINISHED_NAMES = frozenset({"COMMITTED", "ABORTED", "EXPIRED", "MIXED", "HAZARD"})
"""What the state of a finished transaction is called: its outcome."""
STATE_NAMES = frozenset(state.value for state in State) | FINISHED_NAMES
"""Every state that a listing can have."""

_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TRACEPARENT = re.compile(rf"[0-9a-f]{{2}}-({_TRACE_ID.pattern})-[0-9a-f]{{16}}-[0-9a-f]{{2}}.*", re.ASCII)
"""W3C Trace Context, section 3.2.2: version, trace id, parent id, flags."""

Place = tuple[int, str]
"""Where a transaction stands in the order: when its first attempt began, and its id."""


# ---- transactions


def check_transactions(request: admin_pb2.ListTransactionsRequest) -> None:
    """Raise `RequestError` for a listing that cannot be made."""
    unknown = sorted(set(request.states) - STATE_NAMES)
    if unknown:
        message = f"{unknown[0][:80]!r} is not a state; the states are {', '.join(sorted(STATE_NAMES))}"
        raise RequestError(Reason.INVALID_ARGUMENT, message)
    if request.trace_id and not _TRACE_ID.fullmatch(request.trace_id):
        raise RequestError(Reason.INVALID_ARGUMENT, "trace_id is not 32 hexadecimal digits in lower case, as W3C has it")
    _check_token(request.page_token)
    place_of(request)


def trace_id_of(traceparent: str) -> str:
    """The trace id of a W3C traceparent; empty where it is none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""


def transactions(book: Book, request: admin_pb2.ListTransactionsRequest) -> Message:
    """One page of transactions, in order, and how many there are in all.

    All are gone through for each page, some 0.2 us each: nothing is made but a place, of a page alone rows are.
    """
    response = admin_pb2.ListTransactionsResponse()
    after = place_of(request)
    places = _places_open(book, request)
    over = 0
    if is_of_what_is_over(request):
        places += (past := _places_over(book, request))
        over = len(past)
    count = rows_of(request.limit) + 1
    if request.newest_first:
        rows = nlargest(count, [place for place in places if place < after])
    else:
        rows = nsmallest(count, [place for place in places if place > after])
    messages = (summary(book, name, book.live.get(name) or book.finished[name]) for _, name in rows)
    count = fill_page(response.transactions, messages, request.limit)
    response.total, response.over = len(places), over
    if count < len(rows):
        response.next_page_token = token_of(response.transactions[-1])
    return response


def _places_open(book: Book, request: admin_pb2.ListTransactionsRequest) -> list[Place]:
    """Where everything stands that a listing is of, and that is not over."""
    states, outcomes, wanted = frozenset(request.states), outcomes_of(request), _wanted(request)
    return [
        (txn.first_attempt_ms, name) for name, txn in book.live.items()
        if (not states or txn.state.value in states or (txn.state is State.HEURISTIC and txn.outcome in outcomes))
        and (wanted is None or wanted(txn, txn.branches, book.clock_ms))
    ]  # fmt: skip


def _places_over(book: Book, request: admin_pb2.ListTransactionsRequest) -> list[Place]:
    """The same of what is over. What was contradicted since it was over is open again, and told as such."""
    states, outcomes, wanted = request.states, outcomes_of(request), _wanted(request)
    return [
        (done.first_attempt_ms, name) for name, done in book.finished.items()
        if (not states or done.told in outcomes) and name not in book.live
        and done.at_ms >= request.since_ms and (wanted is None or wanted(done, done.participants, done.at_ms))
    ]  # fmt: skip


def is_of_what_is_over(request: admin_pb2.ListTransactionsRequest) -> bool:
    """Whether a listing has transactions that are over."""
    return bool(request.finished or request.key or request.trace_id or frozenset(request.states) & FINISHED_NAMES)


def outcomes_of(request: admin_pb2.ListTransactionsRequest) -> frozenset[int]:
    """The outcomes that a listing is narrowed to."""
    return frozenset(common_pb2.Outcome.Value(f"OUTCOME_{state}") for state in frozenset(request.states) & FINISHED_NAMES)


Wanted = Callable[[Transaction | Finished, Container[str], int], bool]


def _wanted(request: admin_pb2.ListTransactionsRequest) -> Wanted | None:
    """Whether a transaction with these participants, that ended then or has run until then, is listed; `None` when all are."""
    participant, key, slow_ms, trace_id = request.participant, request.key, request.slow_ms, request.trace_id
    if not participant and not key and not slow_ms and not trace_id:
        return None

    def wanted(one: Transaction | Finished, names: Container[str], until_ms: int) -> bool:
        if participant and participant not in names:
            return False
        # Of what is over the history alone keeps the trace.
        if trace_id and (isinstance(one, Finished) or trace_id_of(one.traceparent) != trace_id):
            return False
        # A client whose clock is ahead began after it ended: of whoever does not ask for slow ones that is no business.
        if slow_ms and until_ms - one.first_attempt_ms < slow_ms:
            return False
        return not key or (one.claim is not None and one.claim.key == key)

    return wanted


def place_of(request: admin_pb2.ListTransactionsRequest) -> Place:
    """The place behind which a page begins; raises `RequestError`."""
    if not request.page_token:
        return (2**63 - 1 if request.newest_first else -(2**63), "")
    first_ms, slash, name = request.page_token.partition("/")
    try:
        if slash and name:
            return (int(first_ms), name)
    except ValueError:
        pass
    raise RequestError(Reason.INVALID_ARGUMENT, "page_token is not one of this listing")


def token_of(row: admin_pb2.TransactionSummary) -> str:
    """What names the place behind a row."""
    return f"{row.first_attempt_ms}/{row.transaction_id}"


def summary(book: Book, name: str, one: Transaction | Finished) -> admin_pb2.TransactionSummary:
    """The row of a transaction."""
    row = admin_pb2.TransactionSummary(
        transaction_id=name,
        outcome=one.told if isinstance(one, Finished) else one.outcome,
        age_seconds=max(0.0, (book.clock_ms - one.first_attempt_ms) / 1000),
        key=one.claim.key if one.claim else "",
        first_attempt_ms=one.first_attempt_ms,
        owner=one.owner,
    )
    if isinstance(one, Finished):
        row.state = outcome_name(one.told)
        row.ended_ms = one.at_ms
        row.participants.extend(filter(None, one.participants))
    else:
        row.state = one.state.value
        row.participants.extend(one.branches)
        row.owing.extend(one.owing())
        row.client = one.session.client if one.session is not None else ""
        row.trace_id = trace_id_of(one.traceparent)
    if one.cause is not None:
        row.cause.CopyFrom(one.cause)
    return row


# ---- participants


def check_participants(request: admin_pb2.ListParticipantsRequest) -> None:
    """Raise `RequestError` for a listing that cannot be made."""
    _check_token(request.page_token)


def participants(book: Book, request: admin_pb2.ListParticipantsRequest) -> Message:
    """One page of participants, by name, and how many there are in all."""
    response = admin_pb2.ListParticipantsResponse(total=len(book.participants))
    behind = (name for name in book.participants if name > request.page_token)
    names = nsmallest(rows_of(request.limit) + 1, behind)
    lacking = recalling.lacking(book)
    count = fill_page(response.participants, (_participant(book, name, lacking.get(name, ())) for name in names), request.limit)
    if count < len(names):
        response.next_page_token = names[count - 1]
    return response


def _participant(book: Book, name: str, lacking: Sequence[str]) -> admin_pb2.ParticipantSummary:
    participant, loss = book.participants[name], book.losses.get(name)
    held = [(txn, txn.branches[name].step) for txn in (*participant.unended.values(), *participant.recovered.values())]
    steps = [step for _, step in held]
    epoch, order, ended_ms = recalling.unlisted(book, participant)
    blocks = blocking.of_participant(book, participant)
    oldest_ms = min((txn.first_attempt_ms for txn, step in held if step in OWED), default=book.clock_ms)
    return admin_pb2.ParticipantSummary(
        participant=name,
        connected=participant.ready,
        log_id=participant.log_id,
        incarnation=participant.incarnation,
        votes_owed=steps.count(BranchStep.VOTE_OWED),
        acknowledgements_owed=steps.count(BranchStep.COMMIT_OWED),
        software=participant.software,
        stranded=islice(participant.stranded, STRANDED_MAX),
        stranded_total=len(participant.stranded),
        undeclared=participant.undeclared,
        blocking=blocks[: blocking.LISTED_MAX],
        blocking_total=len(blocks),
        invariants=invariants.listed(participant, book.clock_ms),
        oldest_owed_seconds=max(0.0, (book.clock_ms - oldest_ms) / 1000),
        operations=sorted(participant.operations)[:OPERATIONS_MAX],
        refused_log_id=participant.refused_log_id,
        awaited_log_id=participant.awaited,
        lacking=lacking[:STRANDED_MAX],
        lacking_total=len(lacking),
        recalling=participant.recalling,
        to_recall=len(participant.to_recall) + len(participant.recalled),
        unlisted_ended_ms=ended_ms,
        unlisted_epoch=epoch,
        unlisted_order=order,
        loss=participant.went_back or (what_was_lost(book, loss) if loss is not None and not loss.accepted_in else ""),
    )


# ---- what a participant has many of


def check_details(request: admin_pb2.ListParticipantDetailsRequest) -> None:
    """Raise `RequestError` for a listing that cannot be made. A token is a name, and every text may be one."""
    check_participant(request.participant)
    if request.detail not in _DETAILS:
        raise RequestError(Reason.INVALID_ARGUMENT, "detail must be STRANDED, LACKING or OPERATIONS")


def details(book: Book, request: admin_pb2.ListParticipantDetailsRequest) -> Message:
    """One page of what a participant has many of, by name, and how many there are in all."""
    participant = book.participants.get(request.participant)
    if participant is None:
        refusal = cause_of(Reason.UNKNOWN_PARTICIPANT, f"no participant {request.participant[:80]!r} is known")
        return admin_pb2.ListParticipantDetailsResponse(refusal=refusal)
    everything = _DETAILS[request.detail](book, participant)
    response = admin_pb2.ListParticipantDetailsResponse(total=len(everything))
    names = nsmallest(rows_of(request.limit) + 1, (name for name in everything if name > request.page_token))
    count = fill_page(response.rows, (admin_pb2.ParticipantDetailRow(name=name) for name in names), request.limit)
    if count < len(names):
        response.next_page_token = names[count - 1]
    return response


_DETAILS: dict[int, Callable[[Book, Participant], Collection[str]]] = {
    admin_pb2.PARTICIPANT_DETAIL_STRANDED: lambda _, participant: participant.stranded,
    admin_pb2.PARTICIPANT_DETAIL_LACKING: lambda book, participant: recalling.lacking(book).get(participant.name, ()),
    admin_pb2.PARTICIPANT_DETAIL_OPERATIONS: lambda _, participant: participant.operations,
}
"""Where each kind of details is."""


# ---- pages


def rows_of(limit: int) -> int:
    """Rows of a page for which so many were asked."""
    return min(limit or ROWS_DEFAULT, ROWS_MAX)


def _check_token(token: str) -> None:
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise RequestError(Reason.INVALID_ARGUMENT, "page_token is not one of this listing")


def fill_page(page: Any, rows: Iterable[Message], limit: int) -> int:
    """Put rows into a page until it is full; at least one, if there is one. Returns how many."""
    size = 0
    for row in rows:
        if len(page) >= rows_of(limit) or size > PAGE_BYTES_MAX:
            break
        page.append(row)
        size += row.ByteSize()
    return len(page)
