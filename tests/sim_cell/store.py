"""One store for all logs of a run: each is owned by an epoch.

Appends are sent, land, and are answered, each at a moment of its own: one may land when its owner is stopped, or dead, or has lost
its log; and its answer may never come. A failover takes every connection, and with `lose` the end of the coordinators' logs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from coordinator.cell.sharing import Plan, plan
from tests.sim.bank import Bank
from tests.sim.disk import Disk, Records
from tests.sim.world import World
from troth.cell import CellSeen, NodeSeen, ShardSeen
from troth.ready import Append
from troth.v1 import record_pb2

LEASE_SECONDS = 0.6
CELL = "c1"


class Away(Exception):
    """The store does not answer, or not any more."""


class Fenced(Exception):
    """Somebody else has the log."""


class OwnedLog:
    """One log in the store."""

    def __init__(self, name: str, bank: Bank | None = None) -> None:
        self.name = name
        self.disk = Disk(bank)
        self.disk.log_id = f"log-{name}"
        self.epoch = 0
        self.owner = ""
        self.until = 0.0
        self.leaving = False
        self.backend: Any = None
        """The host whose connection holds the lease; it ends with the host's life."""
        self.history: list[tuple[Records, int]] = []
        """What was durable after each change, and under which epoch."""

    def remember(self) -> None:
        """Note what is durable now."""
        self.history.append((self.disk.durable.copy(), self.epoch))


class Store:
    """The database, and its clock: that of the run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.logs: dict[str, OwnedLog] = {}
        self.nodes: dict[str, tuple[Any, bool, float]] = {}
        """By name: the host, whether it drains, and until when it counts as living."""
        self.away_until = 0.0
        self.generation = 0
        """Connections of an earlier one are gone."""
        self.calm = False
        """Whether faults are over."""
        self.violations: list[str] = []
        self.owners: dict[tuple[str, int, int], Any] = {}
        self.lost: dict[str, tuple[int, frozenset[str]]] = {}
        """Of each coordinator's log that a failover has cut: at which seq, and the nonces of the lives before."""

    # ---- ownership

    def check(self, generation: int | None = None) -> None:
        """Raise `Away`, also for a connection that was made before the last failover."""
        if self.world.now < self.away_until or generation not in (None, self.generation):
            raise Away

    def lives(self, log: OwnedLog) -> bool:
        """Whether a log is held: nobody else may claim it."""
        return log.until > self.world.now and log.backend is not None and log.backend.is_connected

    def claim(self, log: OwnedLog, host: Any) -> tuple[int, Records] | None:
        """Take a log that nobody holds, and read it; `None` when somebody does."""
        self.check()
        if self.lives(log):
            self.world.reach("a claim was refused")
            return None
        if log.backend is not None and log.backend.alive and log.owner != host.name:
            self.world.reach("a log was taken over from who lives")
        read = self.read(log)
        log.epoch = self.next_epoch(log)
        held = self.owners.setdefault((log.name, self.generation, log.epoch), host)
        if held is not host:
            self.violations.append(f"no two owners of one epoch: {held.name} and {host.name} have epoch {log.epoch} of {log.name}")
        log.owner, log.backend, log.until, log.leaving = host.name, host, self.world.now + LEASE_SECONDS, False
        log.remember()
        return log.epoch, read

    def next_epoch(self, log: OwnedLog) -> int:
        """The epoch of who claims."""
        return log.epoch + 1

    def read(self, log: OwnedLog) -> Records:
        """What a claim reads: under the lock in which it raises the epoch."""
        return log.disk.durable.copy()

    def owns(self, log: OwnedLog, epoch: int) -> bool:
        """Whether an append may land: the log's row has the epoch of who appends."""
        return log.epoch == epoch

    def renew(self, log: OwnedLog, epoch: int, host: Any) -> bool:
        """Whether the lease is longer now."""
        self.check()
        if log.epoch != epoch or log.owner != host.name:
            return False
        log.until = self.world.now + LEASE_SECONDS
        return True

    def release(self, log: OwnedLog, epoch: int) -> None:
        """Give a log back."""
        self.check()
        if log.epoch == epoch:
            log.owner, log.backend, log.until, log.leaving = "", None, 0.0, False

    def append(self, log: OwnedLog, epoch: int, generation: int, batch: Sequence[Append], drop_below: int) -> Any:
        """Land a batch. Raises `Fenced` or `Away`, with nothing changed."""
        self.check(generation)
        if not self.owns(log, epoch):
            self.world.reach("an append was fenced")
            raise Fenced
        if epoch != log.epoch:
            text = f"{log.name} was written by epoch {epoch}, and epoch {log.epoch} has it"
            self.violations.append(f"nothing durable after a claim: {text}")
        written = log.disk.write(batch, sync=True, drop_below=drop_below)
        log.remember()
        return written

    # ---- the cell

    def beat(self, host: Any, draining: bool) -> None:
        """A node says that it lives."""
        self.check()
        self.nodes[host.name] = (host, draining, self.world.now + LEASE_SECONDS)

    def seen(self, shards: Sequence[str]) -> CellSeen:
        """What a node reads."""
        nodes = tuple(
            NodeSeen(name, name, draining, until > self.world.now and host.is_connected, 1.0)
            for name, (host, draining, until) in sorted(self.nodes.items())
        )
        logs = [self.logs[name] for name in shards]
        return CellSeen(nodes, tuple(ShardSeen(one.name, one.owner, self.lives(one), one.epoch, one.leaving, 1.0) for one in logs))

    def plan(self, seen: CellSeen, me: str, had: Sequence[str], unable: Sequence[str]) -> Plan:
        """What a node does (production's own rule)."""
        return plan(seen, me, had=had, unable=unable)

    # ---- trouble

    def fail_over(self, roll: Random, *, lose: bool, shards: Sequence[str]) -> None:
        """Another server takes its place."""
        self.generation += 1
        self.away_until = self.world.now + roll.uniform(0.05, 0.4)
        for log in self.logs.values():
            log.until = 0.0
        for name in shards if lose else ():
            self._cut(self.logs[name], roll)

    def _cut(self, log: OwnedLog, roll: Random) -> None:
        kept = max(0, len(log.history) - 1 - roll.randint(1, 12))
        before, disk = log.disk.durable, log.disk
        if not log.history:
            return
        records, epoch = log.history[kept]
        if disk.position <= (records[-1][0] if records else 0):
            return
        self.world.reach("a failover lost records")
        self.lost[log.name] = (records[-1][0] if records else 0, frozenset(_nonces(before)))
        disk.durable, log.epoch = records.copy(), epoch
        disk.next_seq = disk.position + 1


def _nonces(records: Records) -> Iterator[str]:
    """Of the lives that a log knows."""
    for _, body in records:
        record = record_pb2.CoordinatorRecord.FromString(body)
        if record.HasField("epoch_started"):
            yield record.epoch_started.nonce
