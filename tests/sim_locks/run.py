"""One run: many transactions on few keys at once; in half of the runs with faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from coordinator.core import events as into
from tests.sim.bank import operation
from tests.sim.checkers import nobody_broke_the_protocol
from tests.sim.clients import COMMITTED, Attempt, Client, Work
from tests.sim.disk import Disk
from tests.sim.run import FAULT_SECONDS, Result, Run
from tests.sim.workload import Workload
from tests.sim.world import EPOCH_MS
from tests.sim_locks.bank import CHASE, HotBank
from tests.sim_locks.history import in_circles, joined, precedence
from tests.sim_locks.waits import Waits

HOT = 2
"""Accounts of each participant."""
BALANCE = 100_000
"""Nobody is refused for want of money."""
PATIENCE_SECONDS = 4.0
"""How long participants let a lock be waited for in a run without faults: longer than any wait may be."""
BUSY_SECONDS = 0.15
DELAY_SECONDS = 0.004
"""Of a message, on average: so long that others come between."""
LOOK_SECONDS = 0.02

MUST_REACH = ("a key was found", "a lock was waited for", "a found key was not free", "committed", "faults")
REACH_SEEDS = 200


def draw_hot(roll: Random, accounts: dict[str, list[str]]) -> Work:
    """What one transaction does: reads here and changes there, transfers, and pointers that are followed."""
    names = sorted(accounts)
    one, other = roll.sample(names, 2)
    here, there = roll.choice(accounts[one]), roll.choice(accounts[other])
    amount, kind = roll.randint(1, 9), roll.random()
    if kind < 0.45:
        return {one: [operation("read", here)], other: [operation("credit", there, amount)]}
    if kind < 0.55:
        return {one: [operation("debit", here, amount)], other: [operation("credit", there, amount)]}
    if kind < 0.7:
        return {one: [operation(CHASE, here, amount)], other: [operation(roll.choice(("credit", CHASE)), there, amount)]}
    if kind < 0.85:
        return {one: [operation(CHASE, here, amount)]} if roll.random() < 0.6 else {
            one: [operation("debit", accounts[one][0], amount), operation("credit", accounts[one][1], amount)]
        }
    return {name: [operation("read", roll.choice(accounts[name]))] for name in roll.sample(names, roll.choice((2, 3)))}


class HotClient(Client):
    """A client that asks for its read locks to be held, without which reading here and writing there is not serialisable."""

    hold = True

    def _send(self, event: Any) -> None:
        if isinstance(event, into.Run | into.Begin):
            event.request.hold_read_locks = self.hold
        super()._send(event)


class HotWorkload(Workload):
    """As the others, of `draw_hot`."""

    def _one(self, own: Random) -> None:
        interactive = own.random() < 0.3
        first_attempt_ms = EPOCH_MS + int(self.world.now * 1000) - own.choice((0, 0, own.randint(0, 50)))
        work = draw_hot(own, self.accounts)
        attempt = Attempt("", 0, work, "", interactive, first_attempt_ms, 5000 if self.steady else 2000, random=own)
        attempt.steady = self.steady
        self.attempt(attempt, retries=0)


class HotRun(Run):
    """What one seed makes."""

    def __init__(self, seed: int, *, tracing: bool, keep: Iterable[str] | None) -> None:
        super().__init__(seed, tracing=tracing, keep=keep)
        self.calm = seed % 2 == 0 and not self.narrow
        self.accounts = {name: [f"{name}/{i}" for i in range(HOT)] for name in self.participants}
        for name, process in self.participants.items():
            if self.calm:
                process.config = replace(process.config, lock_wait_seconds=PATIENCE_SECONDS)
            _put_into(process.disk, HotBank(dict.fromkeys(self.accounts[name], BALANCE)))
        self.clients[:] = [
            HotClient(self.world, client.name, self.coordinator, self.participants, self.history) for client in self.clients
        ]
        self.coordinator.echo = lambda heard, live: None
        self.workload = HotWorkload(self.world, self.clients, self.accounts, steady=self.calm)
        self.waits = Waits(self.coordinator, self.participants.values(), calm=self.calm)

    def go(self, transactions: int | None) -> None:
        """A busy moment, then peace."""
        world, plan = self.world, self.plan
        for process in self.processes:
            process.start()
        for client in self.clients:
            client.connect()
        world.run_until(0.3)
        self.network.weather.mean_delay = DELAY_SECONDS
        if not self.calm:
            self.faults.plan(plan, self.coordinator, FAULT_SECONDS)
            world.reach("faults")
        self.workload.schedule(plan, transactions or plan.count(16, 32), BUSY_SECONDS)
        while world.now < 0.3 + FAULT_SECONDS:
            world.run_until(world.now + LOOK_SECONDS)
            self.waits.look(world.now)
        self.faults.end()
        self.come_to_rest()

    @property
    def banks(self) -> list[HotBank]:
        """Every bank."""
        return [process.bank for process in self.participants.values() if isinstance(process.bank, HotBank)]

    def judge(self) -> list[str]:
        """All violations."""
        self._count()
        found = [*sorted(self.waits.violations), *self._isolation(), *self._serialisable()]
        if self.calm:
            found += nobody_broke_the_protocol(self.scene)
        if not self.is_at_rest():
            found.append("AC5 nothing left: something is not over, long after all faults have ended")
        return found

    def _isolation(self) -> Iterator[str]:
        for bank in self.banks:
            yield from bank.violations

    def _serialisable(self) -> Iterator[str]:
        """What was committed could have happened one after the other."""
        committed = {name for name, outcomes in self.history.told.items() if COMMITTED in outcomes}
        committed |= {name for bank in self.banks for name, changes in bank.rows.applied.items() if changes}
        circle = in_circles(joined(precedence(bank.accesses, committed) for bank in self.banks))
        if circle:
            yield f"serialisable: each of {sorted(circle)} comes before another one of them"

    def _count(self) -> None:
        reached = {
            "a key was found": sum(bank.found for bank in self.banks),
            "a lock was waited for": self.waits.longest > 0,
            "a found key was not free": sum(len(process.core._m.found) for process in self.participants.values()),
            "committed": sum(COMMITTED in outcomes for outcomes in self.history.told.values()),
        }
        for name, times in reached.items():
            if times:
                self.world.reach(name)


def _put_into(disk: Disk, bank: HotBank) -> None:
    disk.bank, disk._rows = bank, bank.rows.copy()


def run(seed: int, *, tracing: bool = False, transactions: int | None = None, keep: Iterable[str] | None = None) -> Result:
    """Run one seed; with `keep` only those of its items."""
    return HotRun(seed, tracing=tracing, keep=keep).result(transactions)
