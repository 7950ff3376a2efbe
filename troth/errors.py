"""Errors: one tree, and one table of stable reasons.

    TrothError
    ├── RequestError          the request was refused before anything ran (a mistake of the caller, or overload)
    ├── TransactionError      what a client learns of a transaction that did not commit
    │   ├── Aborted           nothing of it happened; says who, why, and whether a retry may help
    │   ├── OutcomeUnknown    it may have happened: ask again with the transaction id, never blindly retry
    │   └── HeuristicOutcome  an operator or a fault broke atomicity: people must look (MIXED, HAZARD)
    ├── Refuse                raised by an operation that must not happen
    ├── ProtocolError         a peer, or our own code, broke the protocol; nothing has changed
    │   ├── LocalProtocolError
    │   └── RemoteProtocolError
    ├── LogError              the log cannot be used; the process must stop
    │   ├── LogLocked         another process has it
    │   ├── LogForeign        it belongs to somebody else, or is of a newer format
    │   ├── LogDamaged        it is damaged; says where, and the way out
    │   └── LogFailed         an I/O error, a full disk, a failed sync
    └── ConfigError           a setting is wrong; names it and where it came from

Every error has a `reason` (stable, for machines), a message (for people) and a hint (what to do).
`docs/reference/errors.md` is drawn from the table below.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """What is the same for every error with one reason."""

    grpc_code: str
    """The name of the gRPC status code in unary calls."""
    retryable: bool
    """Whether the same request may succeed later."""
    hint: str
    """What to do."""


class Reason(Enum):
    """The stable reasons. The name is what travels; the value is what is told about it."""

    # Mistakes in a request: nothing ran.
    INVALID_NAME = ReasonInfo("INVALID_ARGUMENT", False, "Correct the name.")
    INVALID_TRANSACTION_ID = ReasonInfo("INVALID_ARGUMENT", False, "Pass the id exactly as it was given.")
    INVALID_ARGUMENT = ReasonInfo("INVALID_ARGUMENT", False, "Correct the request; the message names the field.")
    INVALID_TIMEOUT = ReasonInfo("INVALID_ARGUMENT", False, "Use a number of seconds above zero, within timeout_ms_max.")
    INVALID_KEY = ReasonInfo("INVALID_ARGUMENT", False, "Use a text that is not empty, of at most key_bytes_max bytes.")
    UNKNOWN_PARTICIPANT = ReasonInfo("NOT_FOUND", False, "Check the name with `troth participants`; has it ever connected?")
    UNKNOWN_OPERATION = ReasonInfo("NOT_FOUND", False, "Check the operation's name at the participant.")
    BAD_ARGUMENTS = ReasonInfo("INVALID_ARGUMENT", False, "Correct the arguments; the message names them.")
    TOO_MANY_PARTICIPANTS = ReasonInfo("INVALID_ARGUMENT", False, "Use fewer participants, or raise participants_max.")
    TOO_MANY_OPERATIONS = ReasonInfo("INVALID_ARGUMENT", False, "Use fewer operations, or raise operations_max.")
    PAYLOAD_TOO_LARGE = ReasonInfo("INVALID_ARGUMENT", False, "Send less, or raise payload_bytes_max.")
    FRAME_TOO_LARGE = ReasonInfo("RESOURCE_EXHAUSTED", False, "Send less at a time: at most frame_bytes_max, frame_messages_max.")
    KEY_REUSED = ReasonInfo("ALREADY_EXISTS", False, "Use a new key for a new request.")
    EXPIRED = ReasonInfo("FAILED_PRECONDITION", False, "It is older than the retention: find out by other means what happened.")
    CLOCK_SKEW = ReasonInfo("FAILED_PRECONDITION", False, "Compare the clocks of both machines; correct the wrong one.")
    VERSION_MISMATCH = ReasonInfo("FAILED_PRECONDITION", False, "Upgrade the older side.")
    NO_CONTEXT = ReasonInfo("FAILED_PRECONDITION", False, "Call the service inside a transaction.")
    # States of a transaction that do not allow the request.
    UNKNOWN_TRANSACTION = ReasonInfo("NOT_FOUND", False, "Nothing is known of it here, which does not mean aborted.")
    NOT_ACTIVE = ReasonInfo("FAILED_PRECONDITION", False, "The transaction is committing, or over.")
    ALREADY_COMMITTED = ReasonInfo("FAILED_PRECONDITION", False, "A committed transaction cannot be aborted.")
    ENLIST_CLOSED = ReasonInfo("FAILED_PRECONDITION", False, "Do all work before the commit begins.")
    # Why a transaction aborted.
    REFUSED = ReasonInfo("ABORTED", False, "An operation refused; see the code and the message.")
    CONFLICT = ReasonInfo("ABORTED", True, "Another transaction holds a lock: try again with back-off.")
    TIMEOUT = ReasonInfo("ABORTED", True, "It was not decided in time: try again, or use a longer timeout.")
    CLIENT_ABORT = ReasonInfo("ABORTED", False, "The client asked for it.")
    CLIENT_GONE = ReasonInfo("ABORTED", True, "The client's session ended before it committed.")
    PARTICIPANT_AWAY = ReasonInfo("UNAVAILABLE", True, "Start the participant, or try again with back-off.")
    PARTICIPANT_RESTARTED = ReasonInfo("ABORTED", True, "Its unprepared work is gone: try again.")
    COORDINATOR_RESTARTED = ReasonInfo("ABORTED", True, "It was undecided when the coordinator stopped: try again.")
    OPERATION_COUNT = ReasonInfo("ABORTED", True, "A call was lost or repeated on the way: try again.")
    SECOND_SLOT = ReasonInfo(
        "ABORTED", True, "Send all calls of a transaction to one process of the service: route by the header troth-transaction."
    )
    ROLLED_BACK = ReasonInfo("ABORTED", True, "Its branch had been rolled back before: try again.")
    SUPERSEDED = ReasonInfo("ABORTED", True, "Another attempt with the same key took its place.")
    OPERATOR_ABORT = ReasonInfo("ABORTED", False, "An operator aborted it; the message says why.")
    OPERATION_FAILED = ReasonInfo("ABORTED", False, "The operation raised an exception: see the participant's log.")
    FORBIDDEN_SQL = ReasonInfo("ABORTED", False, "Take the statement out of the operation; the message names it.")
    SHARED_KEYS = ReasonInfo("ABORTED", False, "Name what it changes as a key, not as Read(key): others read under the same key.")
    UNCAPTURED_TABLE = ReasonInfo("ABORTED", False, "Give the table a primary key that is NOT NULL.")
    CONSTRAINT = ReasonInfo("ABORTED", False, "The change breaks a constraint of the database.")
    BAD_RESULT = ReasonInfo("ABORTED", False, "Return None, bool, int, float, str, bytes, Decimal, list or dict.")
    GROUP_LOST = ReasonInfo("ABORTED", True, "Another operation of the batch ended it: try again.")
    # Identity and fencing.
    STALE_EPOCH = ReasonInfo("FAILED_PRECONDITION", False, "A newer coordinator was seen: stop this one.")
    STALE_INCARNATION = ReasonInfo("FAILED_PRECONDITION", False, "A newer process of this participant took over.")
    FOREIGN_LOG = ReasonInfo(
        "FAILED_PRECONDITION", False, "The name is another log's: see `troth participants`, and its `replace NAME --log-id ID`."
    )
    FOREIGN_COORDINATOR = ReasonInfo(
        "FAILED_PRECONDITION", True, "Start the coordinator on its own log; if that is lost, give the new one another name."
    )
    LOG_WENT_BACK = ReasonInfo(
        "DATA_LOSS", True, "A log has lost what it had said: see how-to/operate-a-coordinator, 'a lost or old log'."
    )
    WRONG_NODE = ReasonInfo(
        "UNAVAILABLE", True, "Dial the node that the directory names, or any other one; troth cell shows which has what."
    )
    WRONG_SHARD = ReasonInfo("FAILED_PRECONDITION", False, "Run it at the shard that the message names, under the same key.")
    SUPERSEDED_STREAM = ReasonInfo("ABORTED", True, "A newer stream of the same peer took over.")
    # Who may do what.
    UNAUTHENTICATED = ReasonInfo("UNAUTHENTICATED", False, "Show a certificate or a token that the coordinator accepts.")
    TOKEN_EXPIRED = ReasonInfo("UNAUTHENTICATED", False, "Get a new one, and renew the file that it is read from.")
    FORBIDDEN = ReasonInfo("PERMISSION_DENIED", False, "Ask whoever keeps the policy; `troth policy explain` says why.")
    AWAITS_APPROVAL = ReasonInfo("FAILED_PRECONDITION", False, "Have a second person approve it: `troth review list`.")
    IMPLAUSIBLE = ReasonInfo("FAILED_PRECONDITION", True, "Nobody can have started so often: find out who says so.")
    PAYLOAD_KEY_MISSING = ReasonInfo(
        "FAILED_PRECONDITION", True, "Bring back the payload keys that the log names, and start again: how-to/encrypt-payloads."
    )
    PAYLOAD_UNREADABLE = ReasonInfo(
        "INVALID_ARGUMENT", False, "Give client and participant one payload codec with the same keys: how-to/encrypt-payloads."
    )
    # Overload and life cycle.
    OVERLOADED = ReasonInfo("RESOURCE_EXHAUSTED", True, "Wait as RetryInfo says, then try again.")
    DRAINING = ReasonInfo("UNAVAILABLE", True, "The coordinator is going down: try again elsewhere or later.")
    COORDINATOR_AWAY = ReasonInfo("UNAVAILABLE", True, "Check the coordinator's address, and that it runs.")
    SHUTTING_DOWN = ReasonInfo("UNAVAILABLE", True, "This process is going down.")
    IN_DOUBT = ReasonInfo("UNKNOWN", False, "Ask again with the transaction id; do not retry the work.")
    HEURISTIC = ReasonInfo("INTERNAL", False, "People must look: `troth txn explain ID`.")
    PROTOCOL_ERROR = ReasonInfo("INTERNAL", False, "A bug in a peer: report it with the message.")
    INTERNAL = ReasonInfo("INTERNAL", False, "A bug: report it with the message and the log.")
    # Logs and settings: the process does not start, or stops.
    LOG_LOCKED = ReasonInfo("UNAVAILABLE", False, "Stop the other process that uses this file.")
    LOG_FOREIGN = ReasonInfo("FAILED_PRECONDITION", False, "Point the setting at the right file.")
    LOG_TOO_NEW = ReasonInfo("FAILED_PRECONDITION", False, "Use the newer version of the software that wrote it.")
    LOG_DAMAGED = ReasonInfo("DATA_LOSS", False, "Restore the file, or see `troth log verify`.")
    LOG_FAILED = ReasonInfo("UNAVAILABLE", False, "Free disk space or mend the disk, then restart: recovery is automatic.")
    LOG_FENCED = ReasonInfo("UNAVAILABLE", False, "Another owner has the log now: nothing is to be done here.")
    LOG_AWAY = ReasonInfo("UNAVAILABLE", True, "Start the database, or correct how it is reached; the message has its answer.")
    STORE_UNSAFE = ReasonInfo("FAILED_PRECONDITION", False, "Change the setting of the database that the message names.")
    LOG_READ_ONLY = ReasonInfo("UNAVAILABLE", False, "Make the directory writable.")
    LOG_FILE_OPEN_ELSEWHERE = ReasonInfo("UNAVAILABLE", False, "Close other users of the file; read through participant.read().")
    SCHEMA_MISMATCH = ReasonInfo("FAILED_PRECONDITION", False, "Undo the schema change made behind the SDK's back.")
    CONFIG = ReasonInfo("FAILED_PRECONDITION", False, "Correct the setting; `troth config show` tells where it comes from.")
    PORT_TAKEN = ReasonInfo("UNAVAILABLE", False, "Stop the other process, or use another address.")

    @property
    def grpc_code(self) -> str:
        """The name of the gRPC status code in unary calls."""
        return self.value.grpc_code

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.value.retryable

    @property
    def hint(self) -> str:
        """What to do."""
        return self.value.hint


# Enum makes members with equal values aliases of one another; the check keeps every reason a member of its own.
assert len(Reason.__members__) == len(Reason), "two reasons with the same ReasonInfo: give them different hints"


class TrothError(Exception):
    """The root. `reason` is stable; `str(error)` is for people, names who and which code, and ends with the hint.

    Every error can be pickled and copied: it must get from a worker process to whoever waits for it.
    """

    participant: str = ""
    """Whose affair it is, if one participant's."""
    code: str = ""
    """The application's own code, when an operation refused."""
    _about: ClassVar[tuple[str, ...]] = ("participant", "code")
    """What of it stands in the text besides the message."""

    def __init__(self, reason: Reason, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint or reason.hint

    def __str__(self) -> str:
        about = " ".join(filter(None, (getattr(self, name) for name in self._about)))
        return f"{self.reason.name}{f' [{about}]' if about else ''}: {self.message} ({self.hint})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are made again from `args` by default, which are not what the constructors take.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[TrothError], args: tuple[Any, ...]) -> TrothError:
    error = kind.__new__(kind)
    error.args = args
    return error


class RequestError(TrothError):
    """The request was refused; nothing has run. `by_caller`: for a limit of the caller's own, which others do not feel."""

    def __init__(self, reason: Reason, message: str, *, hint: str = "", participant: str = "", by_caller: bool = False) -> None:
        super().__init__(reason, message, hint=hint)
        self.participant = participant
        self.by_caller = by_caller


class TransactionError(TrothError):
    """What a client learns of a transaction that did not commit as asked."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        transaction_id: str = "",
        participant: str = "",
        code: str = "",
        retryable: bool | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(reason, message, hint=hint)
        self.transaction_id = transaction_id
        self.participant = participant
        self.code = code
        self.retryable = reason.retryable if retryable is None else retryable


class Aborted(TransactionError):
    """Nothing of the transaction happened, anywhere. `retryable` says whether a retry may help."""


class OutcomeUnknown(TransactionError):
    """It may have committed. Ask with the transaction id; a blind retry may do it twice.

    It is never `retryable`. `participants` and `first_attempt_ms` are what the coordinator needs besides to settle it, and with
    an idempotency key `key` and `body_hash`: `Client.get` takes all of them. Under its key the same work may be run again, with the
    same `first_attempt_ms`: it commits at most once.
    """

    _about = ("transaction_id", "participant", "code")

    def __init__(
        self, reason: Reason, message: str, *, transaction_id: str = "", participants: tuple[str, ...] = (),
        first_attempt_ms: int = 0, key: str = "", body_hash: bytes = b"",
    ) -> None:  # fmt: skip
        super().__init__(reason, message, transaction_id=transaction_id, retryable=False)
        self.participants = participants
        self.first_attempt_ms = first_attempt_ms
        self.key = key
        self.body_hash = body_hash


class HeuristicOutcome(TransactionError):
    """Atomicity was broken by an operator's order or by a fault. People must look."""

    _about = ("transaction_id", "participant", "code")


class Refuse(TrothError):
    """Raise this in an operation that must not happen; the transaction aborts everywhere.

    `code` is the application's own, such as `"NO_FUNDS"`; it reaches the client in `Aborted.code`.
    With `retryable=True` the client may try the same again.
    """

    def __init__(self, code: str, message: str = "", *, retryable: bool = False) -> None:
        super().__init__(Reason.REFUSED, message or code)
        self.code = code
        self.retryable = retryable


class ProtocolError(TrothError):
    """The protocol was broken; nothing has changed."""

    def __init__(self, message: str, *, reason: Reason = Reason.PROTOCOL_ERROR) -> None:
        super().__init__(reason, message)


class LocalProtocolError(ProtocolError):
    """Our own code broke the protocol: a bug."""


class RemoteProtocolError(ProtocolError):
    """A peer broke the protocol; its frame was dropped."""


class LogError(TrothError):
    """The log cannot be used; the process must stop."""


class LogLocked(LogError):
    """Another process has the log."""


class LogForeign(LogError):
    """The log belongs to somebody else, or is of a newer format."""


class LogDamaged(LogError):
    """The log is damaged; the message says where."""


class LogFailed(LogError):
    """An I/O error, a full disk or a failed sync. What was not acknowledged may or may not be there; restart recovers."""


class ConfigError(TrothError):
    """A setting is wrong."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(Reason.CONFIG, message, hint=hint)
