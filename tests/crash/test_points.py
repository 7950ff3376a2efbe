"""Each failpoint of each role, by kill -9, by SIGSTOP past every timeout, and by exits one of which is in recovery; under load.

What is stopped wakes into a world that took it for dead and went on; an exit (status 70) cleans nothing up. By default one
failpoint of each kind is drawn for each role and each of the three, the same ones at each run; CRASH_POINTS=all takes every
failpoint there is: a quarter of an hour. (`kill` at every failpoint, on the shop, is in tests/e2e.)
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from bank_check import check
from bank_cluster import BANKS, COORDINATOR, PAST_EVERY_TIMEOUT_SECONDS, BankCluster
from demo import settle
from points import GROUPS
from processes import Process
from transfers import Clerks

from troth.failpoints import EXIT_STATUS

POINT_SECONDS = 25.0
"""How long a process may take to come by a point."""
CHANCES_MORE = 3
END_SECONDS = 240.0
LOOK_SECONDS = 0.02
ALL = os.environ.get("CRASH_POINTS") == "all"
KILLED, STOPPED, EXITED = "kill", "stop", "exit"
ENDS = {KILLED: -signal.SIGKILL, EXITED: EXIT_STATUS}
IN_RECOVERY = {
    "coordinator": ["before-sync:epoch_started", "after-sync:epoch_started", "before-send:welcome", "on-receive:reports_complete"],
    "participant": ["before-sync:incarnation_started", "after-sync:incarnation_started"],
}
"""What every process comes by when it starts, whatever it has to recover."""

RECOVERY = {
    COORDINATOR: ["coordinator:after-sync:decided", "coordinator:before-sync:epoch_started", "coordinator:after-sync:epoch_started",
                  "coordinator:before-send:decisions", "coordinator:after-sync:epoch_started"],
    BANKS[0]: ["participant:before-sync:incarnation_started", "participant:before-sync:incarnation_started",
               "participant:after-sync:incarnation_started"],
    BANKS[1]: ["participant:after-sync:branch_prepared", "participant:before-send:reports", "participant:after-send:reports"],
    BANKS[2]: ["participant:after-sync:branch_prepared", "participant:before-sync:incarnation_started",
               "participant:after-send:reports"],
}  # fmt: skip
"""Points that a process comes by one after the other: when it has work to recover, and while it recovers.

What stands before `reports` leaves something in doubt for sure (a vote may be NO, and then there is nothing to report)."""
OTHERS_MAKE_IT_COME_BY = {
    "coordinator": {
        "participant_bound", "goodbye", "inquiries", "settles", "settlements", "got", "gets", "begins", "begun", "enlists",
        "enlisted",
    },
    "participant": {"epoch_seen", "goodbye", "inquiries", "reports", "settles", "settlements", "enlists", "enlisted"},
}
"""What neither plain traffic nor a start reaches for sure; tests/e2e has it reached for `kill`."""


def role_of(name: str) -> str:
    """The role that a process plays."""
    return "coordinator" if name == COORDINATOR else "participant"


def points_of(name: str, action: str) -> list[str]:
    """The points at which a process is hit in this way; the banks share those of their role."""
    role = role_of(name)
    kinds: dict[str, list[str]] = {}
    for point in itertools.chain.from_iterable(GROUPS.values()):
        of, kind, what = point.split(":")
        if of == role and what not in OTHERS_MAKE_IT_COME_BY[role]:
            kinds.setdefault(kind, []).append(point)
    if ALL:
        found = [point for points in kinds.values() for point in points]
    else:
        found = [random.Random(f"{role} {kind} {action}").choice(points) for kind, points in kinds.items()]
    return found if name == COORDINATOR else found[BANKS.index(name) :: len(BANKS)]


def test_the_sample_has_every_kind() -> None:
    kinds = {"before-sync", "after-sync", "before-send", "after-send", "on-receive"}
    for action in (KILLED, STOPPED, EXITED):
        drawn = [point for name in (COORDINATOR, *BANKS) for point in points_of(name, action)]
        assert {point.split(":")[1] for point in drawn if point.startswith("coordinator")} == kinds
        assert {point.split(":")[1] for point in drawn if point.startswith("participant")} == kinds | {"after-apply"}


class Ordeal:
    """Load on a cluster, while processes are hit at their points."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.missed: list[tuple[Process, list[str], str]] = []
        self._recoveries: Counter[str] = Counter()

    async def run(self, action: str, points: dict[str, list[str]], *, recovers: bool = True) -> None:
        """Hit each process at each of its points: the coordinator, and then the banks side by side."""
        async with BankCluster(self.directory) as cluster:
            addresses = {name: bank.address for name, bank in cluster.banks.items()}
            async with Clerks(cluster.clients_address, addresses, self.directory / "told.jsonl", 1) as clerks:
                working = asyncio.create_task(clerks.work())
                try:
                    await self._lane(cluster.coordinator, points[COORDINATOR], action, recovers)
                    lanes = [self._lane(cluster.processes[name], points[name], action, recovers) for name in BANKS]
                    await asyncio.gather(*lanes)
                    await self._once_more(action, recovers)
                    clerks.over.set()
                    async with asyncio.timeout(END_SECONDS):
                        await working
                finally:
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)
            await settle(cluster.coordinator.address)
            await cluster.stop()

    async def _lane(self, victim: Process, points: list[str], action: str, recovers: bool) -> None:
        """Hit one process at one point after the other; in between it `recovers` in peace, or does not."""
        for point in points:
            came_by = await self._hit(victim, point, action)
            if came_by and recovers and action == EXITED:
                came_by = await self._hit(victim, self._next_in_recovery(victim), action)
            if not came_by:
                self.missed.append((victim, [point] if recovers else points, point))
            if recovers or not came_by or point == points[-1]:
                victim.kill()
                await victim.ended()
                assert await victim.start()
            if not recovers and not came_by:
                return  # what follows would come by in recovery from this one

    def _next_in_recovery(self, victim: Process) -> str:
        """Where it exits again while it recovers; each process goes around what there is."""
        role = role_of(victim.name)
        point = IN_RECOVERY[role][self._recoveries[victim.name] % len(IN_RECOVERY[role])]
        self._recoveries[victim.name] += 1
        return f"{role}:{point}"

    async def _once_more(self, action: str, recovers: bool) -> None:
        """While others are down, few transactions come by anywhere: what was missed gets its chances when all are up."""
        for _ in range(CHANCES_MORE):
            missed, self.missed = self.missed, []
            for victim, points, _ in missed:
                await self._lane(victim, points, action, recovers)

    async def _hit(self, victim: Process, point: str, action: str) -> bool:
        """Have a process come by a point, and say whether it did within the time."""
        victim.kill()
        await victim.ended()
        await victim.spawn(f"{point}={action}")
        try:
            async with asyncio.timeout(POINT_SECONDS):
                if action == STOPPED:
                    await stopped(victim)
                else:
                    status = await victim.ended()
                    assert status == ENDS[action], victim.unexpected_end(status)
        except TimeoutError:
            return False
        if action == STOPPED:
            await asyncio.sleep(PAST_EVERY_TIMEOUT_SECONDS)
            victim.signal(signal.SIGCONT)
        return True

    def judge(self) -> None:
        """Check everything that must hold."""
        verdict = check(self.directory)
        for bank in BANKS:
            assert "invariant violated" not in (self.directory / f"{bank}.log").read_text(errors="replace"), bank
        assert not verdict.wrong, "\n".join(verdict.wrong[:20])
        assert verdict.committed > 0
        assert not self.missed, f"not come by within the time: {[point for _, _, point in self.missed]}"


async def stopped(process: Process) -> None:
    """Until the process has stopped itself."""
    while state(process) != "T":  # noqa: ASYNC110 - the kernel tells only those who look
        await asyncio.sleep(LOOK_SECONDS)


def state(process: Process) -> str:
    """The letter of its state, as the kernel has it."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("action", [KILLED, STOPPED, EXITED])
async def test_at_its_points(action: str, tmp_path: Path) -> None:
    ordeal = Ordeal(tmp_path)
    await ordeal.run(action, {name: points_of(name, action) for name in (COORDINATOR, *BANKS)})
    ordeal.judge()


async def test_exits_during_recovery(tmp_path: Path) -> None:
    ordeal = Ordeal(tmp_path)
    await ordeal.run(EXITED, RECOVERY, recovers=False)
    ordeal.judge()
