"""What Hello says of branches."""

from __future__ import annotations

import pytest

from participant_sdk.core import records
from participant_sdk.core.branches import State
from participant_sdk.core.work import ResourceKind
from tests.participant_core.driver import Machinery, ParticipantDriver
from tests.participant_core.test_table import T1, WAYS, force
from tests.transcripts import Command
from troth.v1 import participant_pb2

STATES = participant_pb2.BranchState


@pytest.mark.parametrize("how", ["LAST_CALL", "PREPARE"])
@pytest.mark.parametrize("end", ["COMMIT", "ABORT"])
def test_a_branch_that_people_ended_still_says_whether_it_was_prepared_early(how: str, end: str) -> None:
    """Also after a restart: whoever was handed the commit since may have decided it alone, and nothing is presumed of that."""
    driver = ParticipantDriver()
    asked = "last_call l1 T1" if how == "LAST_CALL" else "prepare T1 order=1 interactive count=1"
    for line in (f"participant {ResourceKind.ATOMIC.value}", *WAYS[State.ACTIVE], asked, "sync", "answer", "sync"):
        driver.run(Command(line))
    machine: Machinery = driver.machine
    machine.step(force(participant_pb2.ForceKind.Value(f"FORCE_KIND_{end}")))
    machine.drain()
    for machinery in (machine, again(machine)):
        report = records.report(machinery.core._m.branches[T1])
        assert report is not None and report.state == STATES.Value(f"BRANCH_STATE_FORCED_{end}")
        assert report.early is (how == "LAST_CALL")


def again(machine: Machinery) -> Machinery:
    later = Machinery()
    later.durable = list(machine.durable)
    later.boot()
    return later
