"""A core whose log is owned: what the engine does for a log in a store, on the host that has claimed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.sim.disk import Disk, Records
from tests.sim.process import Process
from tests.sim.world import World
from tests.sim_cell.store import LEASE_SECONDS, Away, Fenced, OwnedLog, Store
from troth.ready import Append

LATE = 0.06
"""How often an append is on its way for long."""
UNCLEAR = 0.03
"""How often nobody hears what became of one."""


class ClaimedDisk(Disk):
    """A log as its owner knows it: what the claim has read, and what was acknowledged since."""

    def __init__(self, log: OwnedLog, epoch: int, read: Records) -> None:
        super().__init__()
        self.log, self.epoch = log, epoch
        self.log_id = log.disk.log_id
        self.bank = log.disk.bank
        self.durable = read
        self.known = read[-1][0] if read else 0
        self.generation = 0
        """The connection that it was claimed on, and that appends go over."""
        self.asked = 0.0
        """When it was claimed: the lease is counted from then, however late its answer is heard."""

    def crash(self, random: Any) -> None:
        """A database does not die with who uses it."""
        self.holder = None

    def read(self) -> tuple[list[int], list[bytes]]:
        """What the claim has read."""
        return [seq for seq, _ in self.durable], [body for _, body in self.durable]

    @property
    def position(self) -> int:
        """The newest record that is known to be durable."""
        return self.known


class Host:
    """A node, or a process of a service: it lives, is stopped, dies, and has logs. Its connection to the store dies with it, and
    with the store's server."""

    def __init__(self, world: World, store: Store, name: str) -> None:
        self.world, self.store, self.name = world, store, name
        self.alive = False
        self.life = 0
        self.paused_until = 0.0
        self.cores: dict[str, Owned] = {}
        """By the name of the log."""
        self.acknowledged: dict[str, int] = {}
        """What this process knows to be durable."""
        self.crashes = 0
        self.dice: Any = None
        self.chance = 0.0
        self.generation = 0

    @property
    def is_connected(self) -> bool:
        """Whether its backend lives at the server that there is."""
        return self.alive and self.generation == self.store.generation

    def start(self) -> None:
        """Begin a life."""
        if not self.alive:
            self.alive, self.generation = True, self.store.generation
            self.life += 1
            self.acknowledged.clear()
            self.beat()

    def die(self, why: str) -> None:
        """The process is gone, with all that it had in memory; somebody starts it again."""
        if self.alive:
            self.alive = False
            self.crashes += 1
            self.world.say(self.name, f"DIES {why}")
            for core in list(self.cores.values()):
                core.end(why)
            self.cores.clear()
            self.world.after(self.world.random.uniform(0.1, 1.5), self.start)

    def pause(self, seconds: float) -> None:
        """SIGSTOP: nothing runs; what was sent is on its way."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)
        for core in self.cores.values():
            core.pause(seconds)

    def later(self, delay: float, action: Any, *arguments: Any) -> None:
        """In this life, and not while it is stopped."""
        self.world.after(delay, self._in_life, self.life, action, arguments)

    def _in_life(self, life: int, action: Any, arguments: tuple[Any, ...]) -> None:
        if self.alive and self.life == life:
            if self.paused_until > self.world.now:
                self.world.after(self.paused_until - self.world.now, self._in_life, life, action, arguments)
            else:
                action(*arguments)

    def beat(self) -> None:
        """Look at the store, and after all that one has."""
        try:
            self.store.check()
            self.generation = self.store.generation
            for core in list(self.cores.values()):
                core.hold()
            self.look()
        except Away:
            self.world.reach("the store was away")
        self.later(LEASE_SECONDS / 3 * self.world.random.uniform(0.7, 1.0), self.beat)

    def look(self) -> None:
        """What follows from what is seen. Raises `Away`."""

    def take(self, log: OwnedLog) -> bool:
        """Claim a log, and begin a core on it when the answer comes. Returns whether it was claimed."""
        claimed = self.store.claim(log, self)
        if claimed is None:
            return False
        if self.world.random.random() < 0.05:
            self.world.reach("a claim was unclear")
            self.world.say(self.name, f"claims {log.name}, and hears nothing")
            log.until = self.world.now  # its connection was lost, so nobody holds it
            return False
        self.later(self.world.random.expovariate(1 / 0.005), self._took, log, *claimed, self.store.generation, self.world.now)
        return True

    def _took(self, log: OwnedLog, epoch: int, read: Records, generation: int, asked: float) -> None:
        self.world.say(self.name, f"has claimed {log.name}, epoch {epoch}, {len(read)} records")
        if log.name in self.cores:
            return
        known = self.acknowledged.get(log.name, 0)
        if self.is_gone(known, read):
            self.world.reach("who wrote it refused what a failover had left")
            self.refused(log, epoch)
            return
        disk = ClaimedDisk(log, epoch, read)
        disk.generation, disk.asked = generation, asked
        core = self.make(log, disk)
        self.cores[log.name] = core
        if self.dice is not None:
            core.be_mortal(self.dice, self.chance)
        core.start()

    def is_gone(self, known: int, read: Records) -> bool:
        """Whether the store has lost what this process knows to be durable."""
        return known > (read[-1][0] if read else 0)

    def refused(self, log: OwnedLog, epoch: int) -> None:
        """Leave a log to others. Its connection is closed."""
        log.until = 0.0

    def make(self, log: OwnedLog, disk: ClaimedDisk) -> Owned:
        """A core for a log that was claimed."""
        raise AssertionError("given by each kind of host")


class Owned(Process):
    """A core on a claimed log."""

    disk: ClaimedDisk
    host: Host
    held_until = 0.0

    @property
    def store(self) -> Store:
        """Where the log is."""
        return self.host.store

    def own(self, host: Host) -> None:
        """Belong to a host."""
        self.host = host
        self.held_until = self.disk.asked + LEASE_SECONDS
        self.restart = lambda process: None

    def crash(self, why: str) -> None:
        """The process dies, and with it all that is on the host."""
        self.host.die(why)

    def end(self, why: str) -> None:
        """Only this one: it has lost its log, or has given it back."""
        if self.alive:
            self.host.acknowledged[self.disk.log.name] = self.disk.known
            if self.host.cores.get(self.disk.log.name) is self:
                del self.host.cores[self.disk.log.name]
            super().crash(why)

    def hold(self) -> bool:
        """Renew the lease; without it, step down. Raises `Away`."""
        if not self.store.renew(self.disk.log, self.disk.epoch, self.host):
            self.end("LOST its log")
            return False
        self.held_until = self.world.now + LEASE_SECONDS
        return True

    def may_speak(self) -> bool:
        """Whether nobody else can have the log: past its lease an owner asks before it says anything."""
        if self.world.now < self.held_until:
            return True
        self.world.reach("an owner woke past its lease")
        try:
            return self.hold()
        except Away:
            self.later(0.05, self._turn)
            return False

    def _turn(self) -> None:
        if self.may_speak():
            super()._turn()

    # ---- appends

    def carry(self, copies: list[Append], batch: list[Append], drop_below: int) -> None:
        """Send a batch: it lands in the store, whatever becomes of this process."""
        roll = self.world.random
        late = roll.random() < LATE and not self.store.calm
        delay = roll.uniform(0.3, 1.5) if late else roll.expovariate(1 / 0.001)
        self.world.after(delay, self._land, copies, batch, drop_below, late)

    def _land(self, copies: list[Append], batch: list[Append], drop_below: int, late: bool) -> None:
        whole = [*copies, *batch]
        try:
            answer = self.store.append(self.disk.log, self.disk.epoch, self.disk.generation, whole, drop_below)
        except (Fenced, Away):
            answer = None
        else:
            if late and not self.alive:
                self.world.reach("an append landed behind its owner's end")
        unclear = self.world.random.random() < UNCLEAR and not self.store.calm
        self.later(self.world.random.expovariate(1 / 0.001), self._answered, copies, whole, None if unclear else answer)

    def _answered(self, copies: list[Append], whole: list[Append], answer: Any) -> None:
        if answer is None:
            self.unclear()
            return
        seqs, events = answer
        self.disk.known = max([self.disk.known, *seqs])
        self._landed(copies, whole, seqs, events)

    def unclear(self) -> None:
        """It is fenced, or its connection is lost, or nobody knows what became of an append: a failed log (rule 17)."""
        self.world.reach("an owner stepped down")
        self.end("its log FAILED")

    def _landed(self, copies: list[Append], whole: Sequence[Append], seqs: Sequence[int], events: Sequence[Any]) -> None:
        self.written(len(copies), whole, seqs, events)
