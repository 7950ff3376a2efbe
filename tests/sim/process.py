"""A process: a core, its disk, and the same order of doings as the engine's, without asyncio.

Everything that the engine does between two awaits is one action here, and the process may die before or after each. A write is two
actions: it is begun (the batch is fixed), and some time later it is durable; the core is stepped on in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.sim.disk import Disk, DiskFailed
from tests.sim.world import World
from troth.errors import ProtocolError
from troth.log.cleaner import Cleaner
from troth.ready import Append, Core, Effect, Event

LINGER_SECONDS = 0.02


class Crashed(Exception):
    """The process dies here."""


class Process:
    """One life after another of one role. Subclasses make the core and carry effects out."""

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.life = 0
        self.alive = False
        self.paused = False
        self.skew_ms = 0
        self.crash_chance = 0.0
        self.core: Core
        self.violations: list[str] = []
        self.crashes = 0
        self.down_until = 0.0
        self.long_absence = False
        self._held: deque[Callable[[], None]] = deque()

    # ---- to be given

    def make_core(self) -> Core:
        """A core for a new life."""
        raise AssertionError("given by each role")

    def perform(self, effect: Effect) -> None:
        """Carry an effect out."""
        raise AssertionError("given by each role")

    def recovered(self) -> None:
        """The core has read the log."""

    def died(self) -> None:
        """The process is gone: peers will notice."""

    # ---- life

    def start(self) -> None:
        """Begin a life from what the disk holds."""
        assert not self.alive
        self.life += 1
        self.alive = True
        self._inbox: deque[Event] = deque()
        self._queued: deque[Append] = deque()
        self._writing = False
        self._linger_armed = False
        self._wake_at: float | None = None
        self._held.clear()
        seqs, bodies = self.disk.read()
        self.core = self.make_core()
        self._cleaner = Cleaner(self.core, slack_records=2)
        self._guarded(lambda: self._recover(seqs, bodies))

    def _recover(self, seqs: list[int], bodies: list[bytes]) -> None:
        owners = self.core.recover(bodies, self.world.instant(self.skew_ms))
        self._cleaner.recovered(seqs, owners)
        self.recovered()
        self._turn()

    def crash(self, why: str) -> None:
        """Die, now."""
        if not self.alive:
            return
        self.world.say(self.name, f"CRASH {why}")
        self.alive = False
        self.paused = False
        self.crashes += 1
        self.disk.crash(self.world.random)
        self.died()

    def pause(self, seconds: float) -> None:
        """Stop for a while (SIGSTOP); what arrives waits."""
        if not self.alive or self.paused:
            return
        self.paused = True
        life = self.life
        self.world.after(seconds, lambda: self._resume(life))

    def _resume(self, life: int) -> None:
        if self.life == life and self.paused:
            self.paused = False
            while self._held and self.alive and not self.paused:
                self._held.popleft()()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Let this life do something later, unless it has ended by then."""
        life = self.life
        self.world.after(delay, lambda: self._in_life(life, action))

    def _in_life(self, life: int, action: Callable[[], None]) -> None:
        if not self.alive or self.life != life:
            return
        if self.paused:
            self._held.append(lambda: self._in_life(life, action))
        else:
            self._guarded(action)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Crashed as crash:
            self.crash(str(crash))
        except DiskFailed:
            self.world.reach("disk failed")
            self.crash("the disk failed")

    def maybe_crash(self, where: str) -> None:
        """A point at which the process may die."""
        if self.crash_chance and self.world.random.random() < self.crash_chance:
            self.world.reach(f"crash {where}")
            raise Crashed(where)

    # ---- the engine's turn

    def submit(self, *events: Event) -> None:
        """Events arrive; the turn is taken at once, because other arrivals have actions of their own."""
        self._inbox.extend(events)
        self._turn()

    def _turn(self) -> None:
        now = self.world.instant(self.skew_ms)
        while self._inbox:
            self._step(self._inbox.popleft(), now)
        deadline = self.core.deadline()
        if deadline is not None and deadline <= now.monotonic:
            self.core.tick(now)
        ready = self.core.take_ready()
        self._queued.extend(ready.appends)
        self._start_write()
        for effect in ready.effects:
            self.maybe_crash("between effects")
            self.perform(effect)
        self._arm()

    def _step(self, event: Event, now: Any) -> None:
        if self.world.tracing:
            self.world.say(self.name, event)
        try:
            self.core.step(event, now)
        except ProtocolError as error:
            self.world.say(self.name, f"VIOLATION {error}")
            self.violations.append(str(error))

    def _arm(self) -> None:
        deadline = self.core.deadline()
        if deadline is not None and (self._wake_at is None or deadline < self._wake_at or self._wake_at <= self.world.now):
            self._wake_at = deadline
            self.later(max(0.0, deadline - self.world.now) + 1e-6, self._woken)

    def _woken(self) -> None:
        self._wake_at = None
        self._turn()

    def _start_write(self) -> None:
        if self._writing or not self._queued:
            return
        urgent = any(append.force or append.apply is not None for append in self._queued)
        if urgent:
            self._begin_write()
        elif not self._linger_armed:
            self._linger_armed = True
            self.later(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        self._linger_armed = False
        if not self._writing and self._queued:
            self._begin_write()

    def _begin_write(self) -> None:
        self.maybe_crash("before write")
        copies, drop_below = self._cleaner.plan()
        batch = list(self._queued)
        self._queued.clear()
        self._writing = True
        delay = self.world.random.expovariate(1 / 0.002)
        self.later(delay, lambda: self._finish_write(copies, batch, drop_below))

    def _finish_write(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        whole = copies + batch
        sync = any(append.force or append.apply is None for append in whole)
        seqs, events = self.disk.write(whole, sync=sync, drop_below=drop_below)
        self._cleaner.written(len(copies), whole, seqs)
        self.maybe_crash("after sync")
        self._writing = False
        first: list[Event] = []
        for append, seq, event in zip(whole, seqs, events, strict=True):
            if event is not None:
                first.append(event)
            if seq == 0 and append.record is not None:
                continue
            if append.event is not None:
                first.append(append.event)
            for effect in append.effects:
                self.maybe_crash("between released effects")
                self.perform(effect)
        self._inbox.extendleft(reversed(first))
        self._turn()
