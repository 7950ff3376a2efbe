"""How full the core's limits are."""

from __future__ import annotations

from coordinator.core.book import Book


def fill(book: Book) -> dict[str, int]:
    """How much of each limit is in use, by the setting's name. Of what each session or participant may have: the fullest."""
    participants, sessions = book.participants.values(), book.sessions.values()
    return {
        "open_transactions_max": open_work(book),
        "owner_transactions_max": max(book.owned.values(), default=0),
        "questions_max": len(book.asking),
        "open_bytes_max": book.open_bytes,
        "retained_transactions_max": len(book.other_finished),
        "keys_max": len(book.keys),
        "key_results_bytes_max": book.kept_bytes,
        "sessions_max": sum(one.keeps_answers for one in sessions),
        "unseen_answers_max": max((one.owed for one in sessions if one.keeps_answers), default=0),
        "unseen_bytes_max": book.unseen_bytes,
        "reports_max": max((max(len(one.reports), len(one.stranded)) for one in participants), default=0),
        "reports_bytes_max": sum(one.report_bytes for one in participants),
        "operation_names_bytes_max": sum(one.names_bytes for one in participants),
        "late_heuristics_max": book.late_heuristics + max((len(one.ordered) for one in participants), default=0),
        "known_participants_max": len(participants),
        "proving_max": book.proving,
    }


def open_work(book: Book) -> int:
    """Transactions that `open_transactions_max` counts: questions and what was contradicted late have limits of their own."""
    return len(book.live) - len(book.asking) - book.late_heuristics
