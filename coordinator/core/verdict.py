"""What a branch that did not end by the protocol comes to: against the decision, and against the other branches.

A heuristic end (R*'s, X/Open XA's) is one that people chose, or that cannot be told. Its verdict needs a decision to compare it
with, and there are three:

    COMMIT     it was decided here: the record is in the log, or what it came to is retained
    ABORT      it was decided here in this life; or it is presumed, because a decision would be in this log, and is not
    unknown    anything else

When ABORT may be presumed. The id of a transaction is *its own* when this very log began the life that it names (coordinator, epoch
and nonce: `Book.began`). The nonce is drawn at random by each life, whose record is durable before it says anything. So no other
coordinator's id is its own, and none of another log of the same name, of an empty directory that stands in for the log, or of a
life that an older copy does not have. Two more things make the record of a commit absent, and both take the presumption away:

- the log was put back, and has lost what was decided: of nothing that began before that was accepted is anything presumed, though
  the copy has the life (`Book.may_presume`);
- the retention has dropped it (`Dropped.covers`). A participant that *asks in doubt* is told ABORT all the same: it has not
  acknowledged, and no commit is dropped before all have. But a branch that was committed by hand has acknowledged by that, without
  having heard COMMIT, and may be of such a commit. (One that was rolled back by hand is not: that commit was MIXED, and is dropped
  only after people have seen that, and have forgotten it. But a log that took the participant's name over may be in doubt about
  what the one before had acknowledged: it is not told ABORT, and its rollback by hand may be of such a commit as well.)

Of anything else nothing is known here, and the absence of a record says nothing: `unknown`.

    decision   branches, as far as known             outcome
    --------   -----------------------------------   ---------------------------------------------------
    COMMIT     all committed                         COMMITTED: as decided, after all
               one rolled back                       MIXED
    ABORT      all rolled back                       ABORTED: as decided, after all
               one committed                         MIXED
    unknown    one committed, one rolled back        MIXED: they have parted, whatever was decided
               all that are known ended in one way   HAZARD: one may have ended against the decision
    each       one of them cannot be told            HAZARD

So MIXED is told only from knowledge, and nobody is told COMMITTED from the word of an operator (rule 7 in the other direction): the
other branches are not known here. Three things follow where the decision is unknown:

- *every* end by hand is recorded, a rollback like a commit: two of them are what MIXED is known by. What people have forgotten
  still counts for that, and is not reported anew when its participant says it again;
- it answers nobody. Who is in doubt is answered as if nothing were recorded (`arrivals.presume`): by silence, and a place among
  those that are listed, unless ABORT may be presumed. What is retained once people have forgotten it is IN_DOUBT, not ABORTED;
- people settle it, so it is not proven as well (`proving`): either of the two would be the other's unknown. When the log has lost
  that they did, it may be proven, but by what others know alone: who was ended by hand says so when it is asked, and has forgotten
  nothing of it but that it is listed (`participant_sdk.core.transitions`). It is an end by hand then like any other here.

Earlier software knew COMMIT and ABORT alone, and took the unknown for ABORT. What it wrote is judged again when it is read:
of a transaction that is not its own it is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from troth.v1 import common_pb2, record_pb2

COMMITTED, ABORTED, HAZARD = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED, common_pb2.OUTCOME_HAZARD
UNKNOWN = record_pb2.KNOWN_DECISION_UNKNOWN
_KNOWN = {True: record_pb2.KNOWN_DECISION_COMMIT, False: record_pb2.KNOWN_DECISION_ABORT, None: UNKNOWN}
_DECIDED = {True: COMMITTED, False: ABORTED, None: common_pb2.OUTCOME_IN_DOUBT}


def heuristic(decided: bool | None, **fields: Any) -> record_pb2.Heuristic:
    """The record of an end that the protocol did not decide; `decided` is whether COMMIT was, `None` for unknown."""
    return record_pb2.Heuristic(commit_decided=decided is True, decision=_KNOWN[decided], **fields)


def decided(reports: Sequence[record_pb2.Heuristic]) -> bool | None:
    """Whether COMMIT was decided of a transaction; `None` when that is not known. The first report says it for all."""
    return None if reports[0].decision == UNKNOWN else reports[0].commit_decided


def outcome_decided(reports: Sequence[record_pb2.Heuristic]) -> common_pb2.Outcome.ValueType:
    """What was decided, as an outcome: IN_DOUBT when that is not known."""
    return _DECIDED[decided(reports)]


def last_reports(reports: Iterable[record_pb2.Heuristic]) -> Collection[record_pb2.Heuristic]:
    """The last report of each participant: who was given up may have said since how it ended."""
    return {report.participant: report for report in reports}.values()


def is_given_up(report: record_pb2.Heuristic) -> bool:
    """Whether an operator has given an acknowledgement up, and its participant has not said since how the branch ended."""
    return bool(report.who) and report.commit_decided and report.branch_outcome == HAZARD


def heuristic_outcome(reports: Sequence[record_pb2.Heuristic]) -> common_pb2.Outcome.ValueType:
    """The table above."""
    ends = {report.branch_outcome for report in last_reports(reports)}
    if HAZARD in ends:
        return HAZARD
    if len(ends) > 1:
        return common_pb2.OUTCOME_MIXED
    (end,) = ends
    known = outcome_decided(reports)
    if known == common_pb2.OUTCOME_IN_DOUBT:
        return HAZARD
    return end if end == known else common_pb2.OUTCOME_MIXED


def judged_again(reports: Iterable[record_pb2.Heuristic], *, its_own: bool) -> list[record_pb2.Heuristic]:
    """Reports as they were read, each once; `its_own` is whether the log began their transaction."""
    found: list[record_pb2.Heuristic] = []
    for read in reports:
        report = read
        if not (read.decision or read.commit_decided or its_own):
            report = record_pb2.Heuristic()
            report.CopyFrom(read)
            report.decision = UNKNOWN
        if report not in found:
            found.append(report)
    return found
