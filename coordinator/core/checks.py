"""What is checked before a transaction begins. Nothing has changed when a check refuses, with `RequestError`."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.core.book import Book
from coordinator.core.model import Operations, Participant, Session
from troth.errors import Reason, RequestError
from troth.ids import NUMBER_DIGITS_MAX
from troth.v1 import client_pb2, common_pb2

Works = Sequence[tuple[Participant, Operations]]
"""What each participant is to do."""

_NUMBER_BEYOND = 10**NUMBER_DIGITS_MAX

# Operations are taken over field by field: a further field must be taken over as well.
assert [field.name for field in common_pb2.Operation.DESCRIPTOR.fields] == ["name", "arguments"]


def check_common(book: Book, session: Session, number: int, request: client_pb2.RunRequest | client_pb2.BeginRequest) -> None:
    """Refuse what no transaction may ask for."""
    settings = book.settings
    key, first_attempt_ms, timeout_ms = request.key, request.first_attempt_ms, request.timeout_ms
    if not 0 < number < _NUMBER_BEYOND:
        raise RequestError(Reason.INVALID_ARGUMENT, f"number is {number}; numbers begin at 1 and have 19 digits at most")
    if session.keeps_answers and number <= session.shed_through:
        raise RequestError(Reason.OVERLOADED, f"number {number} was refused before, and will not begin")
    if book.draining:
        raise RequestError(Reason.DRAINING, "the coordinator takes no new transactions")
    if not 0 < timeout_ms <= settings.timeout_ms_max:
        raise RequestError(Reason.INVALID_TIMEOUT, f"timeout_ms is {timeout_ms}; it must be 1 to {settings.timeout_ms_max}")
    if key and len(key.encode()) > settings.key_bytes_max:
        raise RequestError(Reason.INVALID_KEY, f"the key is longer than {settings.key_bytes_max} bytes")
    if first_attempt_ms:
        _check_age(book, first_attempt_ms)
    if not session.has_room(settings.unseen_answers_max):
        raise RequestError(Reason.OVERLOADED, f"{len(session.answers)} answers are not acknowledged by the client")


def check_skew(book: Book, first_attempt_ms: int) -> None:
    """Refuse what comes from the future."""
    # After a jump (a virtual machine that was resumed, say) the durable clock lags behind the wall clock for a while.
    latest_ms = max(book.clock_ms, book.now.wall_ms)
    if first_attempt_ms > latest_ms + book.settings.skew_seconds * 1000:
        ahead = (first_attempt_ms - latest_ms) // 1000
        raise RequestError(Reason.CLOCK_SKEW, f"first_attempt_ms is {ahead} s ahead of the coordinator's clock")


def _check_age(book: Book, first_attempt_ms: int) -> None:
    check_skew(book, first_attempt_ms)
    if book.clock_ms - first_attempt_ms > book.settings.retention_seconds * 1000:
        raise RequestError(
            Reason.EXPIRED, f"the first attempt is older than the retention of {book.settings.retention_seconds:g} s"
        )


def check_room(book: Book, key: str) -> None:
    """Refuse what there is no room for."""
    if len(book.live) >= book.settings.open_transactions_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"{len(book.live)} transactions are open")
    if key and len(book.keys) >= book.settings.keys_max:
        book.counters.overloaded += 1
        raise RequestError(Reason.OVERLOADED, f"{len(book.keys)} idempotency keys are kept")


def check_branches(book: Book, branches: Sequence[client_pb2.BranchRequest]) -> Works:
    """Refuse work that cannot be done as it stands; returns what each participant is to do."""
    if not branches:
        raise RequestError(Reason.INVALID_ARGUMENT, "branches is empty: name at least one participant")
    if len(branches) > book.settings.participants_max:
        message = f"{len(branches)} participants; at most {book.settings.participants_max} are allowed"
        raise RequestError(Reason.TOO_MANY_PARTICIPANTS, message)
    works: dict[str, tuple[Participant, Operations]] = {}
    for work in branches:
        name = work.participant
        if name in works:
            raise RequestError(Reason.INVALID_ARGUMENT, "a participant is named twice: put its operations into one branch")
        participant = book.participants.get(name)
        if participant is None:
            raise RequestError(Reason.UNKNOWN_PARTICIPANT, f"no participant {name[:80]!r} has ever connected")
        works[name] = (participant, _check_operations(book, participant, work.operations[:]))
    return list(works.values())


def _check_operations(book: Book, participant: Participant, asked: Sequence[common_pb2.Operation]) -> Operations:
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
            raise RequestError(Reason.UNKNOWN_OPERATION, f"participant {participant.name!r} offers no {name[:80]!r}")
        operations.append((name, arguments))
    if payload > settings.payload_bytes_max:
        raise RequestError(
            Reason.PAYLOAD_TOO_LARGE,
            f"{payload} bytes of arguments for {participant.name}; at most {settings.payload_bytes_max} are allowed",
        )
    return tuple(operations)


def check_connected(works: Works) -> None:
    """Refuse work for a participant that is away."""
    for participant, _ in works:
        if not participant.ready:
            raise RequestError(Reason.PARTICIPANT_AWAY, f"participant {participant.name!r} is not connected")
