"""Every failpoint of every role: stopped past every timeout, exit, and exit in recovery, with real processes under load.

`kill` at every failpoint is in tests/e2e. Here the same points stop the process (SIGSTOP) for longer than any timeout, so that
the others take it for dead and it wakes into a world that went on; or end it (status 70, no clean-up), once more and again
while it recovers. CRASH_POINTS=all takes every point there is: about fifteen minutes.
"""

from __future__ import annotations

import asyncio
import os
import signal
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
END_SECONDS = 60.0
LOOK_SECONDS = 0.02
ALL = os.environ.get("CRASH_POINTS") == "all"
STOPPED = "stop"
EXITED = "exit"

SAMPLE = {
    COORDINATOR: {
        STOPPED: ["coordinator:on-receive:votes", "coordinator:before-sync:decided", "coordinator:after-sync:decided"],
        EXITED: ["coordinator:after-send:prepares", "coordinator:after-sync:decided", "coordinator:before-sync:ended"],
    },
    BANKS[0]: {
        STOPPED: ["participant:after-apply:operation", "participant:before-sync:branch_prepared"],
        EXITED: ["participant:after-sync:branch_prepared", "participant:on-receive:decisions",
                 "participant:before-sync:branch_finished"],
    },
    BANKS[1]: {
        STOPPED: ["participant:after-send:votes", "participant:on-receive:prepares"],
        EXITED: ["participant:after-apply:operation", "participant:before-send:votes", "participant:before-sync:branch_active"],
    },
    BANKS[2]: {
        STOPPED: ["participant:on-receive:decisions", "participant:after-sync:branch_finished"],
        EXITED: ["participant:after-sync:branch_active", "participant:before-send:enlists",
                 "participant:before-send:acknowledgements"],
    },
}  # fmt: skip
"""What runs by default: about one point of each kind."""
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

The first point of a lane leaves something in doubt for sure (a vote may be NO, and then there is nothing to report)."""
OTHERS_MAKE_IT_COME_BY = {"participant_bound", "reports", "reports_complete", "welcome", "epoch_seen", "goodbye", "inquiries"}
"""What plain traffic does not reach; tests/e2e has it reached for `kill`."""


def points_of(name: str, action: str) -> list[str]:
    """The points at which a process is hit in this way."""
    if not ALL:
        return SAMPLE[name][action]
    role = "coordinator" if name == COORDINATOR else "participant"
    found = [
        point
        for group in GROUPS.values()
        for point in group
        if point.startswith(role) and point.rpartition(":")[2] not in OTHERS_MAKE_IT_COME_BY
    ]
    return found if name == COORDINATOR else found[BANKS.index(name) :: len(BANKS)]


class Ordeal:
    """Load on a cluster, while processes are hit at their points."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.missed: list[tuple[Process, list[str], str]] = []

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
            if not came_by:
                self.missed.append((victim, [point] if recovers else points, point))
            if recovers or not came_by or point == points[-1]:
                victim.kill()
                await victim.ended()
                assert await victim.start()
            if not recovers and not came_by:
                return  # what follows would come by in recovery from this one

    async def _once_more(self, action: str, recovers: bool) -> None:
        """While others are down, few transactions come by anywhere: what was missed gets its chance when all are up."""
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
                    assert status == EXIT_STATUS, victim.unexpected_end(status)
        except TimeoutError:
            return False
        if action == STOPPED:
            await asyncio.sleep(PAST_EVERY_TIMEOUT_SECONDS)
            victim.signal(signal.SIGCONT)
        return True

    def judge(self) -> None:
        """Check everything that must hold."""
        verdict = check(self.directory)
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


@pytest.mark.parametrize("action", [STOPPED, EXITED])
async def test_at_its_points(action: str, tmp_path: Path) -> None:
    ordeal = Ordeal(tmp_path)
    await ordeal.run(action, {name: points_of(name, action) for name in (COORDINATOR, *BANKS)})
    ordeal.judge()


async def test_exits_during_recovery(tmp_path: Path) -> None:
    ordeal = Ordeal(tmp_path)
    await ordeal.run(EXITED, RECOVERY, recovers=False)
    ordeal.judge()
