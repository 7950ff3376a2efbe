"""What a branch that did not end by the protocol comes to: the table of `verdict`."""

from __future__ import annotations

import pytest

from coordinator.core.verdict import UNKNOWN, decided, heuristic, heuristic_outcome, judged_again, outcome_decided
from troth.v1 import common_pb2, record_pb2

COMMIT, ABORT, NOBODY = True, False, None


def reports(committed: bool | None, ends: str) -> list[record_pb2.Heuristic]:
    """One report of each end: C for committed, A for rolled back, H for what cannot be told."""
    outcomes = {"C": common_pb2.OUTCOME_COMMITTED, "A": common_pb2.OUTCOME_ABORTED, "H": common_pb2.OUTCOME_HAZARD}
    return [heuristic(committed, participant=f"p{i}", branch_outcome=outcomes[end]) for i, end in enumerate(ends)]


@pytest.mark.parametrize(
    "committed, ends, outcome",
    [
        (COMMIT, "C", "COMMITTED"), (COMMIT, "A", "MIXED"), (COMMIT, "CA", "MIXED"), (COMMIT, "H", "HAZARD"),
        (ABORT, "A", "ABORTED"), (ABORT, "C", "MIXED"), (ABORT, "CC", "MIXED"), (ABORT, "AC", "MIXED"), (ABORT, "H", "HAZARD"),
        (NOBODY, "C", "HAZARD"), (NOBODY, "CCC", "HAZARD"), (NOBODY, "A", "HAZARD"), (NOBODY, "AA", "HAZARD"),
        (NOBODY, "AC", "MIXED"), (NOBODY, "CCA", "MIXED"), (NOBODY, "CAH", "HAZARD"), (NOBODY, "CH", "HAZARD"),
    ],
)  # fmt: skip
def test_the_outcome_follows_from_the_decision_and_from_how_branches_ended(
    committed: bool | None, ends: str, outcome: str
) -> None:  # fmt: skip
    assert common_pb2.Outcome.Name(heuristic_outcome(reports(committed, ends))) == f"OUTCOME_{outcome}"


@pytest.mark.parametrize("committed, outcome", [(COMMIT, "COMMITTED"), (ABORT, "ABORTED"), (NOBODY, "IN_DOUBT")])
def test_a_record_says_which_of_the_three_it_was(committed: bool | None, outcome: str) -> None:
    said = reports(committed, "C")
    assert decided(said) is committed and common_pb2.Outcome.Name(outcome_decided(said)) == f"OUTCOME_{outcome}"
    assert said[0].commit_decided is (committed is True), "for software that knows but two"


def test_the_last_report_of_a_participant_counts() -> None:
    first, last = reports(COMMIT, "H")[0], reports(COMMIT, "C")[0]
    assert heuristic_outcome([first, last]) == common_pb2.OUTCOME_COMMITTED


def test_what_earlier_software_took_for_aborted_is_unknown_where_the_log_did_not_begin_it() -> None:
    old = record_pb2.Heuristic(participant="a", branch_outcome=common_pb2.OUTCOME_COMMITTED)
    assert judged_again([old], its_own=True) == [old]
    (judged,) = judged_again([old], its_own=False)
    assert judged.decision == UNKNOWN and not old.decision, "and what was read is left as it was"
    assert judged_again([old, judged], its_own=False) == [judged], "as the cleaner may have written it again"


@pytest.mark.parametrize("committed", [COMMIT, ABORT, NOBODY])
def test_what_this_software_wrote_stays_as_it_is(committed: bool | None) -> None:
    said = reports(committed, "CA")
    assert judged_again(said, its_own=False) == said
    commit = record_pb2.Heuristic(participant="a", branch_outcome=common_pb2.OUTCOME_ABORTED, commit_decided=True)
    assert judged_again([commit], its_own=False) == [commit], "a COMMIT that was recorded is known, whoever recorded it"
