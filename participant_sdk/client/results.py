"""What a client learns: `Committed` is returned, everything else is raised.

| the answer says               | the caller gets                                                              |
|-------------------------------|------------------------------------------------------------------------------|
| COMMITTED                     | `Committed`                                                                  |
| ABORTED                       | `Aborted`; or `RequestError`, when the request itself was wrong              |
| IN_DOUBT                      | `OutcomeUnknown`                                                             |
| EXPIRED, or ABORTED (EXPIRED) | `OutcomeUnknown` with reason EXPIRED: too old for anybody to tell            |
| MIXED, HAZARD                 | `HeuristicOutcome`                                                           |
| anything this version has not | `OutcomeUnknown`                                                             |

The results are disjoint, and only knowledge gives `Aborted` (DESIGN section 4, rule 7).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from participant_sdk.causes import error_of
from participant_sdk.client.kept import Kept, decoded
from participant_sdk.codec import Coded
from troth.errors import Aborted, HeuristicOutcome, OutcomeUnknown, Reason, RequestError, TransactionError, TrothError
from troth.v1 import client_pb2, common_pb2
from troth.values import are_sealed, decode_results

WRONG_REQUESTS = frozenset(
    {
        Reason.INVALID_NAME,
        Reason.INVALID_TRANSACTION_ID,
        Reason.INVALID_ARGUMENT,
        Reason.INVALID_TIMEOUT,
        Reason.INVALID_KEY,
        Reason.TOO_MANY_PARTICIPANTS,
        Reason.TOO_MANY_OPERATIONS,
        Reason.PAYLOAD_TOO_LARGE,
        Reason.FRAME_TOO_LARGE,
        Reason.KEY_REUSED,
        Reason.CLOCK_SKEW,
        Reason.VERSION_MISMATCH,
    }
)
"""Reasons that say `RequestError` when the coordinator gives them, as they do when the client finds the mistake itself.

From a participant the same reason (its results were too large, say) is a NO vote, and so an `Aborted`."""


class Asked(NamedTuple):
    """What the caller asked about: all that is needed to ask again."""

    transaction_id: str
    participants: tuple[str, ...]
    first_attempt_ms: int
    key: str = ""
    body_hash: bytes = b""


class Committed:
    """The transaction is committed, everywhere; the decision is durable."""

    __slots__ = (
        "_coded", "_decoded", "_encoded", "_kept", "attempts", "pending", "replayed", "results_available", "transaction_id",
    )  # fmt: skip

    def __init__(self, answer: client_pb2.Answer, transaction_id: str, coded: Coded | None = None, key: str = "") -> None:
        self.transaction_id: str = answer.transaction_id or transaction_id
        """The transaction; with a key that was used before, the one that holds the key."""
        self.pending: bool = answer.pending
        """Whether some participant has still to acknowledge. It will; nobody can abort any more."""
        self.replayed: bool = answer.replayed
        """Whether the key had been used before, and this is the answer of then."""
        # The bytes are copied out: an answer would keep the whole frame alive in which it came.
        encoded = [(branch.participant, branch.results) for branch in answer.results[:]]
        self._encoded = {participant: data for participant, data in encoded if not are_sealed(data)}
        self.results_available: bool = answer.results_available and len(self._encoded) == len(encoded)
        """Whether `results` is complete. After a restart of the coordinator the results may be gone, and a participant without the
        payload key of its log has none; the commit is not gone. Those of an interactive transaction are never here: each call got
        its own, from the service."""
        self.attempts = 1
        """Which attempt of `Client.run` it was that committed; those before had aborted."""
        self._kept = _kept(answer.result, key, coded) if answer.result else None
        self._coded = coded if self._encoded else None
        self._decoded: dict[str, list[Any]] | None = None

    @property
    def results(self) -> dict[str, list[Any]]:
        """What the operations returned: for each participant one value an operation, in the order of the calls.

        Raises `RequestError` (BAD_RESULT, PAYLOAD_UNREADABLE) when a participant sent what cannot be decoded; the commit stands.
        """
        if self._decoded is None:
            coded = self._coded
            self._decoded = {
                name: decode_results(data) if coded is None else coded.decoded_results(name, data)
                for name, data in self._encoded.items()
            }
        return self._decoded

    @property
    def has_result(self) -> bool:
        """Whether a result was kept under the key; it may be `None`."""
        return self._kept is not None

    @property
    def result(self) -> Any:
        """What the caller of an interactive transaction left under its key with the commit (`Transaction.result`), of an outcome
        that was asked for under the key; `None` where nothing was kept.

        Raises `RequestError` (BAD_RESULT, PAYLOAD_UNREADABLE) when it cannot be decoded; the commit stands.
        """
        kept = self.kept
        return None if kept is None else kept.value

    @property
    def kept(self) -> Kept | None:
        """The same, with what made it. Raises as `result` does."""
        if isinstance(self._kept, RequestError):
            raise self._kept
        return self._kept

    def __repr__(self) -> str:
        return f"Committed({self.transaction_id!r}, pending={self.pending}, replayed={self.replayed})"


def _kept(data: bytes, key: str, coded: Coded | None) -> Kept | RequestError:
    # At once, and not when somebody looks: whoever looks may be in another process, which has no codec.
    try:
        return decoded(data, key, coded)
    except RequestError as error:
        return error


class AlreadyCommitted(RequestError):
    """The key of an interactive transaction was used before, and that transaction committed: the body did not run.

    `outcome` is what the key's holder came to, and `result` what its caller left under the key, if he did. What the services
    returned to the calls of that attempt is not here. See docs/decisions/0076-results-under-keys.md.
    """

    def __init__(self, outcome: Committed, *, hint: str = "") -> None:
        super().__init__(
            Reason.ALREADY_COMMITTED,
            f"its key was used before, by {outcome.transaction_id}, which committed; nothing has run now",
            hint=hint or (HAS_RESULT if outcome.has_result else HAS_NONE),
        )
        self.outcome = outcome

    @property
    def has_result(self) -> bool:
        """Whether a result was kept: `None` may be one."""
        return self.outcome.has_result

    @property
    def result(self) -> Any:
        """What was kept under the key; `None` where nothing was. Raises as `Committed.result` does."""
        return self.outcome.result

    def given_back(self, made_by: bytes) -> Any:
        """The result, to the function that made it; raises this error to any other, and where nothing that can be read was kept."""
        try:
            kept = self.outcome.kept
        except RequestError as unreadable:
            # Not that error itself: it would not tell that the work is done.
            raise AlreadyCommitted(self.outcome, hint=f"{UNREADABLE}{unreadable.message}.") from unreadable
        if kept is None:
            raise self
        if kept.made_by != made_by:
            raise AlreadyCommitted(self.outcome, hint=OF_ANOTHER)
        return kept.value


HAS_RESULT = "Take it for done: what it came to is in `result`."
HAS_NONE = (
    "Take it for done: the outcome is in `outcome`. No result was kept: say it with `tx.result = ...` before the commit, as a "
    "plain value. What the calls returned then, ask the services."
)
UNREADABLE = "Take it for done. What it came to cannot be read here: "
OF_ANOTHER = (
    "Something else committed under this key: another function, or the same with other arguments. Give each a key of its own; "
    "what was kept is in `result`."
)


def conclude(answer: client_pb2.Answer, asked: Asked, coded: Coded | None = None) -> Committed:
    """Return what committed, or raise what happened instead; see the table above."""
    if answer.outcome == common_pb2.OUTCOME_COMMITTED:
        return Committed(answer, asked.transaction_id, coded, asked.key)
    raise failure(answer, asked)


def failure(answer: client_pb2.Answer, asked: Asked) -> TrothError:
    """The error for an answer that is no commit; see the table above."""
    if answer.transaction_id:
        asked = asked._replace(transaction_id=answer.transaction_id)
    # A request refused as EXPIRED did not run now; but its first attempt may have, and nobody can tell any more.
    expired = answer.cause.reason == Reason.EXPIRED.name and not answer.cause.participant
    if answer.outcome == common_pb2.OUTCOME_ABORTED and not expired:
        return refusal(answer.cause, asked.transaction_id)
    if answer.outcome in (common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD):
        return _heuristic(answer, asked)
    return _unknown(answer, asked)


def refusal(cause: common_pb2.Cause, transaction_id: str) -> TrothError:
    """The error for something that certainly did not happen: `Aborted`, or `RequestError` for a wrong request."""
    return error_of(cause, transaction_id, wrong=frozenset() if cause.participant else WRONG_REQUESTS)


def reason_of(cause: common_pb2.Cause, otherwise: Reason) -> Reason:
    """The cause's reason; `otherwise` for none, and for one that this version does not have."""
    return Reason.__members__.get(cause.reason, otherwise)


def unknown(reason: Reason, message: str, asked: Asked) -> OutcomeUnknown:
    """The error for something that may have happened, with all that `Client.get` needs."""
    return OutcomeUnknown(
        reason,
        message,
        transaction_id=asked.transaction_id,
        participants=asked.participants,
        first_attempt_ms=asked.first_attempt_ms,
        key=asked.key,
        body_hash=asked.body_hash,
    )


def never_sent(aborted: Aborted, asked: Asked) -> TransactionError:
    """The error for a request that never went out, and never will: nothing of this attempt can happen.

    With a key that says nothing of the attempts before it, of which one may have committed; only the coordinator knows.
    """
    if not asked.key:
        return aborted
    message = f"{aborted.message}; what became of earlier attempts with the key is not known: try again with the same key"
    return unknown(aborted.reason, message, asked)


def _told(cause: common_pb2.Cause, reason: Reason) -> str:
    # Messages end with the hint, for clients that have no table of hints; our errors add it themselves.
    return cause.message.removesuffix(f" ({reason.hint})")


def _unknown(answer: client_pb2.Answer, asked: Asked) -> TrothError:
    if answer.outcome in (common_pb2.OUTCOME_EXPIRED, common_pb2.OUTCOME_ABORTED):
        return unknown(Reason.EXPIRED, _told(answer.cause, Reason.EXPIRED) or "it is older than the retention", asked)
    reason = reason_of(answer.cause, Reason.IN_DOUBT)
    if answer.outcome == common_pb2.OUTCOME_UNSPECIFIED and reason in WRONG_REQUESTS:
        return RequestError(reason, _told(answer.cause, reason))
    return unknown(reason, _told(answer.cause, reason) or "the coordinator does not know the outcome yet", asked)


def _heuristic(answer: client_pb2.Answer, asked: Asked) -> HeuristicOutcome:
    name = common_pb2.Outcome.Name(answer.outcome).removeprefix("OUTCOME_")
    return HeuristicOutcome(
        Reason.HEURISTIC,
        f"{name}: {_told(answer.cause, Reason.HEURISTIC) or 'a branch ended, or may have ended, differently from the decision'}",
        transaction_id=asked.transaction_id,
        participant=answer.cause.participant,
        code=name,
    )
