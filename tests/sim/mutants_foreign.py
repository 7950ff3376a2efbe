"""Known-bad changes of what is said of transactions that another coordinator decided; `foreign` tries them."""

from __future__ import annotations

from typing import Any

from coordinator.core import arrivals, late, model, operator, phase_two
from coordinator.core.book import Book
from tests.sim.mutant import Mutant, adder, to
from troth.v1 import common_pb2, participant_pb2

FOREIGN: list[Mutant] = []

_mutant = adder(FOREIGN)

FORCED_ABORT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT


def _absence_is_abort(original: Any) -> Any:
    def decision_of_past(book: Book, transaction_id: str, done: Any) -> bool:
        return bool(original(book, transaction_id, done))

    return decision_of_past


def _commits_alone(original: Any) -> Any:
    def acknowledged(book: Book, participant: Any, what: Any, **more: Any) -> None:
        if what.kind != FORCED_ABORT:
            original(book, participant, what, **more)

    return acknowledged


def _agrees_with_abort(original: Any) -> Any:
    def agrees(end: Any, committed: bool | None) -> bool:
        return bool(original(end, bool(committed)))

    return agrees


def _as_a_decision(original: Any) -> Any:
    def heuristic_outcome(reports: Any) -> Any:
        ends = {report.branch_outcome for report in reports}
        return original(reports) if len(ends) > 1 else ends.pop()

    return heuristic_outcome


def _known_decision_is_mixed(original: Any) -> Any:
    def heuristic_outcome(reports: Any) -> Any:
        outcome = original(reports)
        return common_pb2.OUTCOME_MIXED if outcome == common_pb2.OUTCOME_HAZARD else outcome

    return heuristic_outcome


def _retained_as_aborted(original: Any) -> Any:
    def outcome_decided(reports: Any) -> Any:
        outcome = original(reports)
        return common_pb2.OUTCOME_ABORTED if outcome == common_pb2.OUTCOME_IN_DOUBT else outcome

    return outcome_decided


_mutant(
    "what nobody here has decided is taken for aborted", "18",
    (late, "decision_of_past", _absence_is_abort), (phase_two, "decision_of_past", _absence_is_abort),
    (arrivals, "decision_of_past", _absence_is_abort),
)  # fmt: skip
_mutant("of what nobody decided commits alone are recorded", "18", (late, "acknowledged", _commits_alone))
_mutant("of what nobody decided a second rollback is as decided", "18", (phase_two, "agrees", _agrees_with_abort))
_mutant("what people say is the outcome", "18", (model, "heuristic_outcome", _as_a_decision))
_mutant("whatever nobody decided is mixed", "18", (model, "heuristic_outcome", _known_decision_is_mixed))
_mutant("what nobody decided is retained as aborted", "6", (operator, "outcome_decided", _retained_as_aborted))
_mutant("what people ended offline stays listed as in doubt", "18", (arrivals, "_is_unknown", to(lambda *arguments: False)))
_mutant("what is forgotten does not count when it is told again", "18", (phase_two, "forgotten_reports", to(lambda done: ())))
_mutant("what is forgotten is reported anew", "18", (late, "_is_dealt_with", to(lambda *arguments, **more: False)))
