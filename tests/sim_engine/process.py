"""A process: one life after another, and the disks that outlive them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.sim_engine.loop import EngineWorld, Life
from tests.sim_engine.network import Network
from tests.sim_engine.resource import WorldDisk
from troth.errors import TrothError


class Process:
    """Subclasses give `main`: what a life does from its start to its exit."""

    def __init__(self, world: EngineWorld, network: Network, name: str) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.disks: list[WorldDisk] = []
        self.life: Life | None = None
        self.lives = 0
        self.crashes = 0
        self.skew_ms = 0
        self.boots_with: Callable[[], int] | None = None
        """What the clock of its machine is off at each boot, where that is drawn."""
        self.crash_mean_steps = 0.0
        """How many steps a life takes on average before it dies; 0 for no such end."""
        self.slow_mean_steps = 0.0
        """How many steps it takes between two short stops; 0 for none."""
        self.down_until = 0.0

    async def main(self) -> None:
        """One life."""
        raise AssertionError("given by each role")

    def died(self) -> None:
        """The life is over, one way or the other."""

    @property
    def alive(self) -> bool:
        """Whether there is a life."""
        return self.life is not None

    # ---- life

    def start(self) -> None:
        """Begin a life from what the disks hold."""
        assert self.life is None
        self.lives += 1
        if self.boots_with is not None:
            self.skew_ms = self.boots_with()
        life = self.life = Life(self.name, lambda: self.skew_ms)
        life.act = self._act
        self._plan(life)
        self.world.say(self.name, f"START life {self.lives}")
        self.world.loop.spawn(life, self._live(life))

    async def _live(self, life: Life) -> None:
        try:
            await self.main()
        except (TrothError, asyncio.CancelledError) as error:
            self.world.say(self.name, f"EXIT {error}")
        except BaseException as error:
            self.world.unexpected.append(f"{self.name} ended by {type(error).__name__}: {error}")
        if life.alive:
            self._over(life)

    def crash(self, why: str) -> None:
        """Die, now; what was not synced may be lost."""
        life = self.life
        if life is None:
            return
        self.world.say(self.name, f"CRASH {why}")
        self.crashes += 1
        self._over(life)

    def _over(self, life: Life) -> None:
        self.life = None
        life.end()
        for disk in self.disks:
            disk.crash(self.world.random.randint(0, len(disk.unsynced)))
        self.died()

    def pause(self, seconds: float) -> None:
        """Stop for a while (SIGSTOP); what arrives waits."""
        life = self.life
        if life is not None and not life.paused:
            life.paused = True
            self.world.after(seconds, lambda: self._resume(life))

    def _resume(self, life: Life) -> None:
        if life.alive and life.paused:
            life.resume(self.world.loop._ready)

    # ---- what happens at a step

    def calm(self) -> None:
        """Nothing more happens by itself."""
        self.crash_mean_steps = self.slow_mean_steps = 0.0
        if self.boots_with is not None:
            self.boots_with, self.skew_ms = None, 0  # somebody sets the clocks
        if self.life is not None:
            self.life.acts_at = 0
        for disk in self.disks:
            disk.fail_at.clear()
            disk.mean_latency = 0.001

    def _plan(self, life: Life) -> None:
        random = self.world.random
        means = [mean for mean in (self.crash_mean_steps, self.slow_mean_steps) if mean]
        life.acts_at = life.steps + 1 + int(random.expovariate(sum(1 / mean for mean in means))) if means else 0

    def _act(self) -> None:
        """The step has come before which the process dies, or stops for a moment."""
        life = self.life
        if life is None:
            return
        both = [(self._die, self.crash_mean_steps), (self._stumble, self.slow_mean_steps)]
        actions = [(action, 1 / mean) for action, mean in both if mean]
        if actions:
            chosen = self.world.random.choices([action for action, _ in actions], [weight for _, weight in actions])
            chosen[0]()
        if life.alive:
            self._plan(life)

    def _die(self) -> None:
        self.world.reach("crash at an await")
        if any(disk.unsynced for disk in self.disks):
            self.world.reach("crash between write and sync")
        self.crash(f"at step {self.life.steps if self.life else 0}")

    def _stumble(self) -> None:
        self.pause(self.world.random.uniform(0.0, 0.02))

    def spawn(self, work: Any) -> asyncio.Task[Any] | None:
        """Begin a task in the present life."""
        if self.life is None:
            work.close()
            return None
        return self.world.loop.spawn(self.life, work)
