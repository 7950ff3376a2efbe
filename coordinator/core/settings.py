"""The limits and times of the coordinator's core, each with a number and a unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Every limit of the core. Past a limit a request is refused with a stable reason; nothing grows without bound."""

    open_transactions_max: int = 20_000
    """Transactions that are not finished; more are refused OVERLOADED."""
    participants_max: int = 64
    """Participants of one transaction."""
    operations_max: int = 64
    """Operations of one branch of a one-shot transaction."""
    payload_bytes_max: int = 1_048_576
    """Bytes of the arguments of one branch."""
    key_bytes_max: int = 256
    """Bytes of an idempotency key in UTF-8."""
    timeout_ms_max: int = 3_600_000
    """Longest timeout in milliseconds."""
    retention_seconds: float = 3600.0
    """How long outcomes are kept; older requests are EXPIRED."""
    retained_transactions_max: int = 100_000
    """Finished transactions that are kept at most."""
    keys_max: int = 200_000
    """Idempotency keys that are kept; new ones past it are refused OVERLOADED."""
    skew_seconds: float = 300.0
    """How far a client's clock may be ahead of ours."""
    session_linger_seconds: float = 10.0
    """How long a client may be away before its undecided interactive transactions are aborted."""
    sessions_max: int = 10_000
    """Client sessions at once."""
    unseen_answers_max: int = 50_000
    """Answers that one session may leave unacknowledged before its new transactions are refused OVERLOADED."""
    resend_first_seconds: float = 5.0
    """First delay before a message is repeated. A live stream loses nothing: a short delay only makes an overload worse."""
    resend_cap_seconds: float = 30.0
    """Longest delay between repeats."""
    settle_answer_seconds: float = 2.0
    """How long a question about an unknown transaction waits for participants before it is answered IN_DOUBT."""
    watermark_interval_seconds: float = 1.0
    """How often participants are told what they may forget."""
    reports_max: int = 200_000
    """Unfinished branches that a participant may list in one Hello; more end its stream as OVERLOADED."""
    late_heuristics_max: int = 1_000
    """Transactions that are kept because a participant contradicted them after they were over; more such reports are refused
    until an operator has forgotten some. The participant keeps its branch, and reports it again with its next Hello."""
    known_participants_max: int = 10_000
    """Participant names that are remembered; a Hello of a new one past it is refused OVERLOADED."""
