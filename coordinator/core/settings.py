"""The limits and times of the coordinator's core, each with a number and a unit."""

from __future__ import annotations

from dataclasses import dataclass

from troth.ids import ID_BYTES_MAX

REPORT_BYTES = 200
"""What a report of a branch takes in memory besides its bytes."""
BARE_REPORT_BYTES = ID_BYTES_MAX + 24 + REPORT_BYTES
"""The most that a report takes of `reports_bytes_max` whose results are left out."""


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Every limit of the core. Past a limit a request is refused with a stable reason; nothing grows without bound."""

    open_transactions_max: int = 20_000
    """Transactions that are not finished; more are refused OVERLOADED."""
    owner_transactions_max: int = 20_000
    """Of these, transactions of one identity, where a policy says whose they are; more are refused OVERLOADED."""
    questions_max: int = 5_000
    """Unknown transactions that clients ask about at once; more are answered IN_DOUBT (OVERLOADED)."""
    open_bytes_max: int = 536_870_912
    """Bytes of arguments and results that open transactions hold; more work is refused, or aborted, OVERLOADED."""
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
    """Finished transactions that are kept at most, besides the commits under a key, which `keys_max` bounds."""
    keys_max: int = 200_000
    """Idempotency keys that are kept; new ones past it are refused OVERLOADED. The daemon's default is more where there is memory:
    a quarter of it, at 1,280 bytes a key."""
    key_results_bytes_max: int = 268_435_456
    """Bytes of results that callers leave under keys; a commit whose result finds no room is aborted OVERLOADED, or goes on
    without it, as its caller wants."""
    skew_seconds: float = 300.0
    """How far a client's clock may be ahead of ours."""
    session_linger_seconds: float = 10.0
    """How long a client may be away before its undecided interactive transactions are aborted."""
    sessions_max: int = 10_000
    """Client sessions at once."""
    unseen_answers_max: int = 50_000
    """Answers that one session may leave unacknowledged before its new transactions are refused OVERLOADED."""
    unseen_bytes_max: int = 268_435_456
    """Bytes of answers that all sessions may leave unacknowledged; past it results are left out, and then new transactions of
    sessions that leave more than their share are refused OVERLOADED."""
    resend_first_seconds: float = 5.0
    """First delay before a message is repeated. A live stream loses nothing: a short delay only makes an overload worse."""
    resend_cap_seconds: float = 30.0
    """Longest delay between repeats."""
    hearing_seconds: float = 1.0
    """How long a start waits for the participants that the log has bound, before anything is written or said: who of them has heard
    what the log does not say refuses the start. 0 waits for nobody."""
    recovery_grace_seconds: float = 60.0
    """How long after a start, and after a loss was accepted, nobody is told to forget anything while a participant that the log has
    bound has not come back: it may be in doubt, and another one know."""
    proving_max: int = 10_000
    """Transactions whose decision the log has lost and that are proven at once; more of them wait for the next Hello."""
    settle_answer_seconds: float = 2.0
    """How long a question about an unknown transaction waits for participants before it is answered IN_DOUBT."""
    watermark_interval_seconds: float = 1.0
    """How often participants are told what they may forget."""
    reports_max: int = 200_000
    """Unfinished branches that a participant may list in one Hello; more end its stream as OVERLOADED. One-phase commits, which
    may be any number, do not count: each is taken as it comes."""
    reports_bytes_max: int = 268_435_456
    """Bytes that all Hellos under way may have listed; past it results are left out, and then streams are ended as OVERLOADED."""
    operation_names_bytes_max: int = 67_108_864
    """Bytes of the names of operations that connected participants offer; past it the names of a further one are not kept."""
    late_heuristics_max: int = 1_000
    """Transactions that are kept because a participant contradicted them after they were over; more such reports are refused
    until an operator has forgotten some. The participant keeps its branch, and reports it again with its next Hello."""
    known_participants_max: int = 10_000
    """Participant names that are remembered; a Hello of a new one past it is refused OVERLOADED."""
