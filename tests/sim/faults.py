"""What goes wrong in a run: drawn from the plan, and over when the network heals.

A run is *calm* when nothing at all goes wrong in it: good weather, no blow, no death, clocks that agree, no operator. Only there
can it be said what must commit, and what it must cost.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim.clients import Client
from tests.sim.network import Network, Weather
from tests.sim.plan import Plan
from tests.sim.process import Process
from tests.sim.roles import CoordinatorProcess
from tests.sim.stale import StaleCopy
from tests.sim.world import World

BLOWS = (
    "crash", "crash", "crash", "pause", "cut", "cut both", "sync error", "disk full", "clock", "everything", "absence", "client",
    "clock at boot",
)  # fmt: skip


class Faults:
    """Carries out a climate for the run, and the blows within it."""

    def __init__(self, world: World, network: Network, processes: list[Process], clients: list[Client]) -> None:
        self.world = world
        self.network = network
        self.processes = processes
        self.clients = clients
        self.count = 0
        self.over = False
        for process in processes:
            process.restart = self._restart_later

    def plan(self, plan: Plan, coordinator: CoordinatorProcess, seconds: float) -> None:
        """Let things go wrong for a while."""
        own = plan.chance("weather", 0.6)
        if own is not None:
            self.network.weather = Weather(
                loss=own.choice([0.0, 0.02, 0.1]),
                repetition=own.choice([0.0, 0.05, 0.2]),
                mean_delay=own.choice([0.001, 0.005, 0.05]),
                break_chance=own.choice([0.0, 0.01, 0.05]),
            )
        for process in self.processes:
            own = plan.chance(f"deaths:{process.name}", 0.6)
            if own is not None:
                process.be_mortal(own, own.choice([0.002, 0.01, 0.05]))
            own = plan.draw(f"skew:{process.name}")
            if own is not None:
                process.skew_ms = own.choice([0, 0, -200, 200])
        for number in range(1, plan.count(0, 7) + 1):
            own = plan.draw(f"blow{number}")
            if own is not None:
                self._later(own.uniform(0.0, seconds), self._blow, own)
        own = plan.chance("stale", 0.15)
        if own is not None:
            StaleCopy(self.world, coordinator, own).plan(seconds)

    def _later(self, delay: float, action: Callable[..., None], own: random.Random) -> None:
        self.world.after(delay, action, own)

    def _blow(self, own: random.Random) -> None:
        if self.over:
            return
        self.count += 1
        kind = own.choice(BLOWS)
        process = own.choice(self.processes)
        self.world.reach(f"fault {kind}")
        self.world.say("*", f"FAULT {kind} {process.name}")
        if kind == "client":
            own.choice(self.clients).die()
        elif kind == "clock at boot":
            self._boot_in_another_time(process, own)
        elif kind in ("crash", "absence", "everything"):
            self._kill(kind, process, own)
        elif kind in ("sync error", "disk full"):
            process.disk.failing = kind
            if kind == "disk full":
                self.world.after(own.uniform(0.1, 1.5), self._make_room, process)
        elif kind == "pause":
            process.pause(own.choice([0.1, 1.0, 3.0]))
        elif kind in ("cut", "cut both"):
            pairs = [("C", process.name), (process.name, "C")]
            length = own.uniform(0.05, 2.0)
            for pair in pairs if kind == "cut both" else [own.choice(pairs)]:
                self.network.cut(*pair, length)
        else:
            process.skew_ms += own.choice([-3_600_000, -1000, 1000, 150_000])

    def _kill(self, kind: str, process: Process, own: random.Random) -> None:
        if kind == "absence":
            process.long_absence = True
            process.down_until = self.world.now + own.uniform(4.0, 15.0)
        for each in self.processes if kind == "everything" else [process]:
            each.crash("by a blow")

    def _boot_in_another_time(self, process: Process, own: random.Random) -> None:
        """The machine comes back with a clock that is hours or days off; somewhat later somebody sets it right."""
        off_ms = own.choice([7_200_000, 7_200_000, 86_400_000, -7_200_000])
        process.skew_ms += off_ms
        process.was_far_ahead |= off_ms > 0
        process.crash("and it boots with another clock")
        self.world.after(own.uniform(0.5, 3.0), self._set_right, process, off_ms)

    def _set_right(self, process: Process, off_ms: int) -> None:
        process.skew_ms -= off_ms

    def _make_room(self, process: Process) -> None:
        if process.disk.failing == "disk full":
            process.disk.failing = ""

    # ---- whoever died is started again

    def _restart_later(self, process: Process) -> None:
        wait = self.world.random.uniform(0.05, 0.4)
        self.world.after(max(wait, process.down_until - self.world.now), self._restart, process, process.life)

    def _restart(self, process: Process, life: int) -> None:
        if process.alive or process.life != life:
            return
        if process.down_until > self.world.now:
            self.world.after(process.down_until - self.world.now, self._restart, process, life)
            return
        process.start()
        process.long_absence = False

    def end(self) -> None:
        """Faults stop: from here on there must be progress."""
        self.over = True
        self.network.heal()
        for process in self.processes:
            process.be_immortal()
            process.skew_ms = max(process.skew_ms, 0)  # a clock that is behind is set right: nobody else gets in before
            process.disk.failing = ""
