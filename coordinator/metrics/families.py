"""Every metric of the coordinator: its name, its labels, and what it says. The reference, and tests of what we ship, read this."""

from __future__ import annotations

from typing import NamedTuple

COUNTERS = {
    "started": "transactions begun",
    "committed": "transactions committed, and finished: for several participants when all have acknowledged",
    "aborted": "transactions aborted",
    "heuristic": "branches that ended, or may have ended, against the decision",
    "refused": "requests refused before they were transactions, for whatever reason",
    "overloaded": "of these, because of `open_bytes_max`, `open_transactions_max`, `keys_max`, `key_results_bytes_max`; "
    "transactions and questions, too",
    "prepares": "Prepare messages sent, repeats too",
    "votes": "votes received, repeats too",
    "decisions": "COMMIT and ABORT messages sent, repeats too",
    "acknowledgements": "acknowledgements received, repeats too",
    "reports_refused": "branches in a Hello that do not fit to what the coordinator knows; nothing has changed",
    "settlements": "RollbackIfUnseen messages sent, repeats too",
    "unary_calls": "unary calls",
    "participant_streams": "streams of participants that were opened",
    "client_streams": "streams of clients that were opened",
    "sessions_resumed": "sessions that a client resumed after a lost stream",
    "malformed_frames": "frames that were refused",
    "overloaded_streams": "streams ended because the peer did not read (`outbox_items_max`)",
    "unauthenticated": "calls whose caller showed a certificate or a token that is not accepted",
    "internal_errors": "unexpected errors; each is in the log",
    "descriptor_shortages": "seconds in which the process could open no file, and so accepted no connection",
    "records": "records written",
    "forced_records": "of these, records that a promise hangs on",
    "batches": "batches written",
    "syncs": "syncs. `forced_records` / `syncs` tells what group commit saves",
    "protocol_errors": "events that the core refused",
}
"""What is counted from the start: `troth status` has them by these names, and Prometheus as `troth_NAME_total`."""

GAUGES = {
    "participant_streams_open": "streams of participants now",
    "client_streams_open": "streams of clients now",
    "undecided": "transactions without a decision now",
}
"""What is there now: in `troth status` by these names, and as `troth_NAME`."""


class Family(NamedTuple):
    """One metric beyond these."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str


PHASES = {
    "work": "from its begin to the client's commit, of interactive work",
    "vote": "from Prepare to the last vote",
    "decide": "while the decision is made durable",
    "commit": "from the decision to the last acknowledgement",
    "one_phase": "from handing the decision to the only participant to its answer",
    "whole": "from its begin at this coordinator to its end",
}

FAMILIES = (
    Family("troth_build_info", "gauge", ("version",), "1; the version is in the label"),
    Family("troth_epoch", "gauge", ("coordinator",), "the epoch of this life: it grows with each start"),
    Family("troth_uptime_seconds", "gauge", (), "seconds since the process began to be observed"),
    Family("troth_draining", "gauge", ("coordinator",), "1 while new work is refused"),
    Family("troth_over_total", "counter", ("outcome", "reason"), "transactions that are over, by outcome and by reason"),
    Family(
        "troth_refusals_total", "counter", ("reason", "fault"),
        "requests that were refused before they were transactions, and streams of clients: by reason, and by whose "
        "`fault`, `service` or `caller`",
    ),
    Family("troth_objective_total", "counter", ("result",), "what the objective counts: `met`, and what was `missed` by our fault"),
    Family("troth_phase_seconds", "histogram", ("phase",), "how long transactions spent in each phase"),
    Family("troth_sync_seconds", "histogram", ("coordinator",), "how long a write to the log with its sync took"),
    Family("troth_batch_records", "histogram", ("coordinator",), "records of one write to the log"),
    Family("troth_log_bytes", "gauge", ("coordinator",), "size of the log's file with its WAL; absent for a log in a store"),
    Family("troth_log_backlog", "gauge", ("coordinator",), "events and records that wait in the engine"),
    Family("troth_limit_used", "gauge", ("limit",), "how much of a limit is in use"),
    Family("troth_limit_max", "gauge", ("limit",), "the limit"),
    Family("troth_participant_connected", "gauge", ("participant",), "1 while it is connected"),
    Family("troth_participant_votes_owed", "gauge", ("participant",), "transactions in which it owes a vote"),
    Family(
        "troth_participant_acknowledgements_owed", "gauge", ("participant",),
        "transactions that are decided, and in which it has not said that it knows: it may be in doubt there, and hold locks",
    ),
    Family(
        "troth_participant_oldest_owed_seconds", "gauge", ("participant",),
        "age of the oldest transaction in which it owes something",
    ),
    Family("troth_participant_stranded", "gauge", ("participant",), "branches in doubt of which this log can say nothing"),
    Family("troth_attention", "gauge", ("kind",), "things that need people, as the console's first page lists them"),
    Family("troth_history_written_total", "counter", (), "transactions written to the history"),
    Family("troth_history_missing_total", "counter", (), "transactions that are missing there"),
    Family("troth_history_waiting", "gauge", (), "transactions that wait to be written to the history"),
)  # fmt: skip

PARTICIPANTS_MAX = 1_000
"""Participants that are told of: the first by name."""


def names() -> set[str]:
    """Every name that Prometheus sees, those of histograms with their endings."""
    found = {f"troth_{name}_total" for name in COUNTERS} | {f"troth_{name}" for name in GAUGES}
    for family in FAMILIES:
        endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        found |= {family.name + ending for ending in endings}
    return found
