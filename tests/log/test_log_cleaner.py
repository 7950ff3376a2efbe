"""Cleaning: nothing live is dropped, and the log stays bounded."""

from __future__ import annotations

import random
from collections.abc import Sequence

from google.protobuf.message import Message
from log_samples import record

from troth.log.cleaner import STEP_RECORDS, Cleaner
from troth.ready import Append


class Owners:
    """The part of a core that the cleaner asks: which records each owner still needs."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}

    def live_records(self, owner: str) -> Sequence[Message]:
        return [record(1)] * self.live.get(owner, 0)

    def live_owners(self) -> int:
        return len(self.live)


class Simulated:
    """A cleaner with a log that only counts."""

    def __init__(self, slack_records: int = 10) -> None:
        self.core = Owners()
        self.cleaner = Cleaner(self.core, slack_records=slack_records)
        self.log: list[tuple[int, str]] = []
        self.next_seq = 1
        self.copied = 0

    def write(self, *owners: str) -> tuple[int, int]:
        """Write one record for each owner; returns how many copies went with them, and the dropped seq."""
        copies, drop_below = self.cleaner.plan()
        batch = copies + [Append(record(1), owner) for owner in owners]
        seqs = range(self.next_seq, self.next_seq + len(batch))
        self.next_seq += len(batch)
        self.log += [(seq, append.owner) for seq, append in zip(seqs, batch, strict=True)]
        self.log = [(seq, owner) for seq, owner in self.log if seq >= drop_below]
        self.cleaner.written(len(copies), batch, seqs)
        self.copied += len(copies)
        return len(copies), drop_below

    def owners(self) -> set[str]:
        return {owner for _, owner in self.log}


def test_a_short_log_is_left_alone() -> None:
    simulated = Simulated(slack_records=10)
    assert [simulated.write("a") for _ in range(11)] == [(0, 0)] * 11


def test_finished_owners_are_dropped_without_copies() -> None:
    simulated = Simulated(slack_records=10)
    for number in range(100):
        simulated.write(f"t{number}")
    assert simulated.copied == 0
    assert len(simulated.log) <= 12


def test_a_live_owner_is_copied_once_for_each_time_it_comes_to_the_head() -> None:
    simulated = Simulated(slack_records=10)
    simulated.core.live = {"keep": 1}
    simulated.write("keep", "keep", "keep")
    for number in range(30):
        simulated.write(f"t{number}")
        assert "keep" in simulated.owners()
    # The two other records of it were replaced by the first copy.
    assert simulated.copied <= 4
    assert len(simulated.log) == len(simulated.cleaner)


def test_a_record_newer_than_the_copy_is_not_taken_for_replaced() -> None:
    simulated = Simulated(slack_records=0)
    simulated.core.live = {"keep": 1}
    simulated.write("keep", "x", "x", "x")
    simulated.write("keep")  # goes with a copy; this record stands behind the copy
    for number in range(10):
        simulated.write(f"t{number}")
        assert "keep" in simulated.owners()


def test_one_step_is_bounded() -> None:
    simulated = Simulated(slack_records=0)
    simulated.write(*(f"t{number}" for number in range(500)))
    simulated.cleaner.written(0, [], [])
    _, drop_below = simulated.cleaner.plan()
    assert drop_below == STEP_RECORDS + 1


def test_recovered_records_are_cleaned_too() -> None:
    cleaner = Cleaner(Owners(), slack_records=1)
    cleaner.recovered([5, 6, 7], ["a", "b", "c"])
    assert len(cleaner) == 3
    assert cleaner.plan() == ([], 8)


def test_a_record_without_seq_is_not_in_the_log() -> None:
    cleaner = Cleaner(Owners(), slack_records=0)
    cleaner.written(0, [Append(None), Append(record(1), "a")], [0, 1])
    assert len(cleaner) == 1


def test_many_live_records_an_owner_are_not_copied_around_and_around() -> None:
    """Ten records an owner: the log is always longer than twice the owners. Copies are paid by new records."""
    simulated = Simulated(slack_records=10)
    owners = [f"o{number}" for number in range(50)]
    for owner in owners:
        simulated.core.live[owner] = 10
        simulated.write(*[owner] * 10)
    written = 500
    for number in range(2000):
        simulated.write(f"t{number}")
        written += 1
    assert simulated.copied <= written + 10
    assert set(owners) <= simulated.owners()
    assert len(simulated.log) < 5 * 500


def test_whatever_happens_live_owners_stay_and_the_log_is_bounded() -> None:
    for seed in range(20):
        dice = random.Random(seed)
        simulated = Simulated(slack_records=dice.choice([0, 5, 50]))
        for _ in range(600):
            owners = [f"t{dice.randrange(40)}" for _ in range(dice.randint(1, 8))]
            for owner in owners:
                simulated.core.live[owner] = dice.randint(1, 2)
            for owner in dice.sample(sorted(simulated.core.live), dice.randint(0, len(simulated.core.live) // 2)):
                if owner not in owners:
                    del simulated.core.live[owner]
            simulated.write(*owners)
            assert set(simulated.core.live) <= simulated.owners(), f"seed {seed}"
            assert [seq for seq, _ in simulated.log] == list(range(simulated.log[0][0], simulated.next_seq))
        assert len(simulated.log) < 400, f"seed {seed}"
