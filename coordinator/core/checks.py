"""What is checked before a transaction begins. Nothing has changed when a check refuses, with `RequestError`."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core import events
from coordinator.core.book import Book
from coordinator.core.fill import open_work
from coordinator.core.finishing import is_old
from coordinator.core.model import Operations, Participant, Session
from coordinator.core.slots import route
from troth.errors import Reason, RequestError
from troth.ids import NAME_PATTERN, NUMBER_DIGITS_MAX
from troth.v1 import client_pb2, common_pb2

Works = Sequence[tuple[Participant, Operations]]
"""What each participant is to do."""

OPERATION_BYTES = 200
"""What an operation takes besides its name and its arguments: many small ones are much, too."""

_NUMBER_BEYOND = 10**NUMBER_DIGITS_MAX

# Operations are taken over field by field: a further field must be taken over as well, but for the caller: a client says anything.
assert [field.name for field in common_pb2.Operation.DESCRIPTOR.fields] == ["name", "arguments", "caller"]


def check_key(book: Book, number: int, request: client_pb2.RunRequest | client_pb2.BeginRequest) -> None:
    """Refuse a number, a key or an age under which nothing can be asked, be the key held or not."""
    settings = book.settings
    key, first_attempt_ms = request.key, request.first_attempt_ms
    if not 0 < number < _NUMBER_BEYOND:
        raise RequestError(Reason.INVALID_ARGUMENT, f"number is {number}; numbers begin at 1 and have 19 digits at most")
    if key and len(key.encode()) > settings.key_bytes_max:
        raise RequestError(Reason.INVALID_KEY, f"the key is longer than {settings.key_bytes_max} bytes")
    if key and first_attempt_ms <= 0:
        # Without its age a retry behind the retention, when the key is forgotten, would look like a first attempt.
        message = "first_attempt_ms is missing: a request with a key says when its first attempt began"
        raise RequestError(Reason.INVALID_ARGUMENT, message)
    if first_attempt_ms:
        _check_age(book, first_attempt_ms, keyed=bool(key))
    if key and book.losses and first_attempt_ms <= book.dropped_through_ms:
        raise RequestError(Reason.EXPIRED, "the first attempt is older than what the coordinator's log has lost")


def check_allowed(event: events.Run | events.Begin) -> None:
    """Refuse what the policy forbids, or what comes too fast. That is known outside, and said here, since what is refused is
    remembered: a repeat that is on its way must not run under another policy when the client has been told that it did not."""
    if event.refusal is not None:
        raise event.refusal


def check_common(
    book: Book, session: Session, number: int, request: client_pb2.RunRequest | client_pb2.BeginRequest, owner: str
) -> None:  # fmt: skip
    """Refuse what no transaction may ask for."""
    if session.keeps_answers and number <= session.shed_through:
        raise RequestError(Reason.OVERLOADED, f"number {number} was refused before, and will not begin", by_caller=True)
    if book.draining:
        raise RequestError(Reason.DRAINING, "the coordinator takes no new transactions")
    if book.has_lost:
        # Whose key is committed, and what is in doubt, nobody knows here.
        raise RequestError(Reason.LOG_WENT_BACK, "the coordinator's log has lost what participants have heard")
    check_timeout(book, request)
    if owner and book.owned[owner] >= book.settings.owner_transactions_max:
        message = f"{book.owned[owner]} transactions of {owner} are open (owner_transactions_max)"
        raise RequestError(Reason.OVERLOADED, message, by_caller=True)
    if not book.has_room(session):
        message = f"{len(session.answers)} answers are not acknowledged by the client"
        raise RequestError(Reason.OVERLOADED, message, by_caller=True)


def check_timeout(book: Book, request: client_pb2.RunRequest | client_pb2.BeginRequest) -> None:
    """Refuse a timeout that nobody may ask for."""
    timeout_ms, timeout_ms_max = request.timeout_ms, book.settings.timeout_ms_max
    if not 0 < timeout_ms <= timeout_ms_max:
        raise RequestError(Reason.INVALID_TIMEOUT, f"timeout_ms is {timeout_ms}; it must be 1 to {timeout_ms_max}")


def check_skew(book: Book, first_attempt_ms: int) -> None:
    """Refuse what comes from the future."""
    # After a jump (a virtual machine that was resumed, say) the durable clock lags behind the wall clock for a while.
    latest_ms = max(book.clock_ms, book.now.wall_ms)
    if first_attempt_ms > latest_ms + book.settings.skew_seconds * 1000:
        ahead = (first_attempt_ms - latest_ms) // 1000
        raise RequestError(Reason.CLOCK_SKEW, f"first_attempt_ms is {ahead} s ahead of the coordinator's clock")


def _check_age(book: Book, first_attempt_ms: int, *, keyed: bool) -> None:
    check_skew(book, first_attempt_ms)
    # What is dropped of the keys was older than the retention, on a clock that may have been wrong then: so both are asked.
    if is_old(book, first_attempt_ms) or (keyed and first_attempt_ms <= book.keys_through_ms):
        raise RequestError(
            Reason.EXPIRED, f"the first attempt is older than the retention of {book.settings.retention_seconds:g} s"
        )


def check_room(book: Book, key: str, payload: int = 0) -> None:
    """Refuse what there is no room for."""
    if book.open_bytes + payload > book.settings.open_bytes_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"open transactions hold {book.open_bytes} bytes (open_bytes_max)")
    work = open_work(book)
    if work >= book.settings.open_transactions_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"{work} transactions are open")
    if key and len(book.keys) >= book.settings.keys_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"{len(book.keys)} idempotency keys are kept")


def check_questions(book: Book) -> None:
    """Refuse a further question about a transaction that is not known: it has room of its own, beside that of work."""
    if len(book.asking) >= book.settings.questions_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"{len(book.asking)} questions about unknown transactions wait for participants")


def check_branches(book: Book, branches: Sequence[client_pb2.BranchRequest]) -> tuple[Works, int]:
    """Refuse work that cannot be done as it stands; returns what each participant is to do, and how many bytes that takes."""
    if not branches:
        raise RequestError(Reason.INVALID_ARGUMENT, "branches is empty: name at least one participant")
    if len(branches) > book.settings.participants_max:
        message = f"{len(branches)} participants; at most {book.settings.participants_max} are allowed"
        raise RequestError(Reason.TOO_MANY_PARTICIPANTS, message)
    works: dict[str, tuple[Participant, Operations]] = {}
    whole = 0
    for work in branches:
        name = work.participant
        if name in works:
            raise RequestError(Reason.INVALID_ARGUMENT, "a participant is named twice: put its operations into one branch")
        participant = route(book, name)
        if participant is None:
            message = f"no participant {name[:80]!r} has ever connected"
            raise RequestError(Reason.UNKNOWN_PARTICIPANT, message, participant=name if NAME_PATTERN.match(name) else "")
        operations, payload = _check_operations(book, participant, work.operations[:])
        works[name] = (participant, operations)
        whole += payload
    return list(works.values()), whole


def _check_operations(
    book: Book, participant: Participant, asked: Sequence[common_pb2.Operation]
) -> tuple[Operations, int]:
    settings = book.settings
    if not 0 < len(asked) <= settings.operations_max:
        raise RequestError(
            Reason.TOO_MANY_OPERATIONS if asked else Reason.INVALID_ARGUMENT,
            f"{len(asked)} operations for {participant.name}; 1 to {settings.operations_max} are allowed",
        )
    operations, payload, offered = [], 0, participant.operations
    for operation in asked:
        name, arguments = operation.name, operation.arguments
        payload += len(arguments) + len(name)
        if offered and name not in offered:
            message = f"participant {participant.name!r} offers no {name[:80]!r}"
            raise RequestError(Reason.UNKNOWN_OPERATION, message, participant=participant.name)
        operations.append((name, arguments))
    if payload > settings.payload_bytes_max:
        raise RequestError(
            Reason.PAYLOAD_TOO_LARGE,
            f"{payload} bytes of arguments for {participant.name}; at most {settings.payload_bytes_max} are allowed",
        )
    return tuple(operations), payload + OPERATION_BYTES * len(operations)


def check_connected(works: Works) -> None:
    """Refuse work for a participant that is away."""
    for participant, _ in works:
        if not participant.ready:
            message = f"participant {participant.name!r} is not connected"
            raise RequestError(Reason.PARTICIPANT_AWAY, message, participant=participant.name)
