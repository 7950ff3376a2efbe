"""A coordinator that comes back with a stale epoch: somebody restores an old copy of its disk and starts it while the real one,
several epochs on, serves.

Two things stop it in the product, and nothing else does. On the same disk it finds the log locked, also when the process that
has the lock is stopped (a file lock goes only with its process). On a copy it can write what it likes, into the copy alone; it
is fenced at each participant that has seen a newer epoch. Here it is led to those, and to clients.
"""

from __future__ import annotations

import random

from tests.sim.disk import Disk
from tests.sim.roles import CoordinatorProcess
from tests.sim.world import World

NAME = "old"


class StaleCopy:
    """Takes the copy, lets the real coordinator begin newer epochs, and wakes the copy for a while."""

    def __init__(self, world: World, coordinator: CoordinatorProcess, own: random.Random) -> None:
        self.world = world
        self.coordinator = coordinator
        self.own = own
        self._disk: Disk | None = None
        self._epoch = 0

    def plan(self, seconds: float) -> None:
        """The steps, in the first half of the time of faults and later."""
        at = self.own.uniform(0.0, seconds / 3)
        self.world.after(at, self._copy)
        for _ in range(2):
            at += self.own.uniform(0.3, 0.6)
            self.world.after(at, self.coordinator.crash, "for a newer epoch")
        self.world.after(at + self.own.uniform(0.5, 1.0), self._wake)

    def _copy(self) -> None:
        self._disk = self.coordinator.disk.copy()
        self._epoch = self.coordinator.core.epoch

    def _wake(self) -> None:
        real = self.coordinator
        if self._disk is None or not real.alive or real.core.epoch < self._epoch + 2 or not self._disk.durable:
            return  # of the same epoch it would be another matter, and nobody promises anything
        on_the_same_disk = CoordinatorProcess(self.world, real.network, real.settings, NAME, real.disk)
        on_the_same_disk.start()
        assert not on_the_same_disk.alive
        stale = real.stale = CoordinatorProcess(self.world, real.network, real.settings, NAME, self._disk)
        stale.copied = frozenset(stale.fresh_core().recover(self._disk.read()[1], self.world.instant(), stale.opened()))
        stale.start()
        self.world.reach("coordinator back with a stale epoch")
        for stream in [*real.streams.values(), *real.clients.values()]:
            if self.own.random() < 0.7:
                stream.break_()
        self.world.after(self.own.uniform(0.3, 1.5), stale.crash, "for good")
