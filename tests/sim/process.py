"""A process: a core, its disk, and the same order of doings as the engine's, without asyncio.

Everything that the engine does between two awaits is one action here, and the process may die before or after each. A write is two
actions: it is begun (the batch is fixed), and some time later it is durable; the core is stepped on in between.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tests.sim.disk import Disk, DiskFailed, Locked
from tests.sim.world import World
from troth.engine import COMPANY_SECONDS, LINGER_SECONDS
from troth.errors import ProtocolError
from troth.log.cleaner import Cleaner
from troth.ready import Append, Core, Effect, Event, Opened

SLACK_RECORDS = 2
"""Of the cleaner: a simulated log is cleaned all the time."""
NEVER = -1


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
        self.serving = False
        """Whether this life has recovered."""
        self.skew_ms = 0
        self.was_far_ahead = False
        """Whether its wall clock was ahead by more than any client's."""
        self.core: Core
        self.violations: list[str] = []
        self.crashes = 0
        self.down_until = 0.0
        self.long_absence = False
        self.restart: Callable[[Process], None] = lambda process: None
        """Told of each death: whoever looks after the process starts it again."""
        self._dice: random.Random | None = None
        self._crash_chance = 0.0
        self._points_left = NEVER
        self._crashed_in_recovery = 0
        self._held: deque[Callable[[], None]] = deque()
        self._waiting: list[Callable[[], None]] = []

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
        """Begin a life from what the disk holds, unless another process has it."""
        assert not self.alive
        try:
            self.disk.lock(self)
        except Locked:
            self.world.reach("second process found the log locked")
            return
        self.life += 1
        self.alive = True
        self.serving = False
        self._inbox: deque[Event] = deque()
        self._queued: deque[Append] = deque()
        self._writing = False
        self._lingers_until = math.inf
        self._wake_at: float | None = None
        self._held.clear()
        torn = self.disk.torn
        seqs, bodies = self.disk.read()
        if self.disk.torn > torn:
            self.world.reach("torn last write")
        self.core = self.make_core()
        self._cleaner = Cleaner(self.core, slack_records=SLACK_RECORDS)
        self._roll(in_recovery=True)
        self._guarded(self._recover, (seqs, bodies))
        if self.alive:
            self._tell_waiting()

    def _recover(self, seqs: list[int], bodies: list[bytes]) -> None:
        self.maybe_crash("in recovery")
        owners = self.core.recover(bodies, self.world.instant(self.skew_ms), self.opened())
        self._cleaner.recovered(seqs, owners)
        self.recovered()
        self.maybe_crash("in recovery")
        self._turn()

    def opened(self) -> Opened:
        """The log as a start finds it."""
        return Opened(self.disk.log_id, self.disk.position)

    @property
    def position(self) -> int:
        """How far its log is, as peers are told."""
        return self.disk.position

    def crash(self, why: str) -> None:
        """Die, now."""
        if not self.alive:
            return
        self.world.say(self.name, f"CRASH {why}")
        self.alive = False
        self.paused = False
        self.crashes += 1
        self._crashed_in_recovery = 0 if self.serving else self._crashed_in_recovery + 1
        if self._crashed_in_recovery:
            self.world.reach("crash in recovery")
        if self._crashed_in_recovery > 1:
            self.world.reach("crashed twice in recovery")
        self.disk.crash(self.world.random)
        self.died()
        self.restart(self)

    def pause(self, seconds: float) -> None:
        """Stop for a while (SIGSTOP); what arrives waits."""
        if not self.alive or self.paused:
            return
        self.paused = True
        self.world.after(seconds, self._resume, self.life)

    def _resume(self, life: int) -> None:
        if self.life == life and self.paused:
            self.paused = False
            while self._held and self.alive and not self.paused:
                self._held.popleft()()
            self._tell_waiting()

    def when_up(self, action: Callable[[], None]) -> None:
        """Do something soon after this process is up, and answers, again."""
        self._waiting.append(action)

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self.world.after(self.world.random.uniform(0.001, 0.1), action)

    def later(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let this life do something later, unless it has ended by then."""
        self.world.after(delay, self._in_life, self.life, action, arguments)

    def _in_life(self, life: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if not self.alive or self.life != life:
            return
        if self.paused:
            self._held.append(lambda: self._in_life(life, action, arguments))
        else:
            self._guarded(action, arguments)

    def _guarded(self, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            action(*arguments)
        except Crashed as crash:
            self.crash(str(crash))
        except DiskFailed as failure:
            self.world.reach(str(failure))
            self.crash(f"the disk failed: {failure}")

    # ---- points at which the process may die

    def be_mortal(self, dice: random.Random, chance: float) -> None:
        """Let each life end at a point that the dice say; `chance` is that of one point."""
        self._dice, self._crash_chance = dice, chance
        self._roll()

    def be_immortal(self) -> None:
        """Faults are over."""
        self._dice, self._points_left = None, NEVER

    def _roll(self, *, in_recovery: bool = False) -> None:
        if self._dice is None:
            self._points_left = NEVER
        elif in_recovery and self._dice.random() < 0.15:
            self._points_left = self._dice.randint(1, 4)
        else:
            self._points_left = 1 + int(self._dice.expovariate(self._crash_chance))

    def maybe_crash(self, where: str) -> None:
        """A point at which the process may die."""
        self._points_left -= 1
        if self._points_left == 0:
            self.world.reach(f"crash {where}")
            raise Crashed(where)

    # ---- the engine's turn

    def submit(self, event: Event) -> None:
        """An event arrives; the turn is taken at once, because other arrivals have actions of their own."""
        self._inbox.append(event)
        self._turn()

    def _turn(self) -> None:
        core, inbox = self.core, self._inbox
        now = self.world.instant(self.skew_ms)
        while inbox:
            self._step(inbox.popleft(), now)
        deadline = core.deadline()
        if deadline is not None and deadline <= now.monotonic:
            core.tick(now)
        ready = core.take_ready()
        if ready.appends:
            self._queued.extend(ready.appends)
        if self._queued:
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
            self.later(max(0.0, deadline - self.world.now) + 1e-6, self._woken, deadline)

    def _woken(self, deadline: float) -> None:
        if self._wake_at == deadline:  # otherwise an earlier one has been armed since, and takes care of what follows
            self._wake_at = None
            self._turn()

    def _start_write(self) -> None:
        if self._writing:
            return
        for append in self._queued:
            if append.force or append.apply is not None:
                self._begin_write()
                return
        linger = COMPANY_SECONDS if all(append.patient for append in self._queued) else LINGER_SECONDS
        until = self.world.now + linger
        if until < self._lingers_until:
            self._lingers_until = until
            self.later(linger, self._lingered, until)

    def _lingered(self, until: float) -> None:
        if self._lingers_until == until and not self._writing and self._queued:
            self._begin_write()

    def _begin_write(self) -> None:
        self._lingers_until = math.inf
        self.maybe_crash("before write")
        copies, drop_below = self._cleaner.plan()
        batch = list(self._queued)
        self._queued.clear()
        self._writing = True
        self.carry(copies, batch, drop_below)

    def carry(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        """Write a batch; some time later it is durable."""
        self.later(self.world.random.expovariate(1 / 0.002), self._finish_write, copies, batch, drop_below)

    def _finish_write(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        whole = copies + batch
        sync = any(append.force or append.apply is None for append in whole)
        seqs, events = self.disk.write(whole, sync=sync, drop_below=drop_below)
        self.written(len(copies), whole, seqs, events)

    def written(self, copies: int, whole: Sequence[Append], seqs: Sequence[int], events: Sequence[Event | None]) -> None:
        """A batch, of which so many are the cleaner's copies, is durable."""
        self._cleaner.written(copies, whole, seqs)
        self.maybe_crash("after sync")
        self._writing = False
        self._release(whole, seqs, events)
        self._turn()

    def _release(self, batch: Sequence[Append], seqs: Sequence[int], events: Sequence[Event | None]) -> None:
        first: list[Event] = []
        for append, seq, event in zip(batch, seqs, events, strict=True):
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

    @property
    def log_records(self) -> int:
        """How many records the log holds, as the cleaner counts them."""
        return len(self._cleaner)
