"""A node of the cell: it looks, claims its share, serves, and gives away. And one of its shards: a whole coordinator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from coordinator.core import events as into
from coordinator.core.core import CoordinatorCore
from coordinator.core.settings import CoreSettings
from tests.sim.network import Network
from tests.sim.roles import CoordinatorProcess
from tests.sim.world import World
from tests.sim_cell.owned import ClaimedDisk, Host, Owned
from tests.sim_cell.store import CELL, Away, OwnedLog, Store
from troth.cell import CellSeen, shard_of_key
from troth.errors import Reason
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2

DRAIN_SECONDS = 1.0
UNABLE_SECONDS = 1.0


class Cell:
    """What all nodes of a run share."""

    def __init__(self, world: World, network: Network, store: Store, settings: CoreSettings, shards: tuple[str, ...]) -> None:
        self.world, self.network, self.store, self.settings, self.shards = world, network, store, settings, shards
        self.nodes: dict[str, Node] = {}
        self.on_made: Any = lambda process: None
        """Told of each shard that begins on a node."""
        self.is_for_good: Callable[[client_pb2.Answer], bool] = lambda answer: False
        """Whether a question is in doubt and stays so."""

    def of_key(self, key: str) -> str:
        """The shard of a key."""
        return self.shards[shard_of_key(key, len(self.shards))]

    def at(self, address: str, shard: str) -> ShardProcess | None:
        """The shard at a node that answers, if it is there."""
        node = self.nodes.get(address)
        if node is None or not node.alive or node.paused_until > self.world.now:
            return None
        core = node.cores.get(shard)
        return core if isinstance(core, ShardProcess) else None

    def directory(self, address: str) -> common_pb2.Directory | None:
        """What a node tells whoever dials it."""
        node = self.nodes[address]
        return node.directory() if node.alive and node.paused_until <= self.world.now else None


class Node(Host):
    """One `troth serve --store`."""

    def __init__(self, cell: Cell, name: str) -> None:
        super().__init__(cell.world, cell.store, name)
        self.cell = cell
        self.draining = False
        self.view: CellSeen | None = None
        self._unable: dict[str, float] = {}

    def look(self) -> None:
        """One beat."""
        store, cell = self.store, self.cell
        store.beat(self, self.draining)
        seen = self.view = store.seen(cell.shards)
        self._unable = {name: until for name, until in self._unable.items() if until > self.world.now}
        had = [name for name, core in self.cores.items() if not core.giving]
        step = store.plan(seen, self.name, had, list(self._unable))
        for name in step.claim:
            if name not in self.cores:
                self.later(self.world.random.expovariate(1 / 0.01), self._claim, name)
        for name in step.give:
            core = self.cores[name]
            if not core.giving:
                core.giving = store.logs[name].leaving = True
                self.world.reach("a shard was given away")
                core.later(0.0, core.drain, self.world.now + DRAIN_SECONDS)

    def _claim(self, name: str) -> None:
        if name not in self.cores:
            with suppress(Away):
                self.take(self.store.logs[name])

    def refused(self, log: OwnedLog, epoch: int) -> None:
        """See `Host`."""
        super().refused(log, epoch)
        self._unable[log.name] = self.world.now + UNABLE_SECONDS

    def make(self, log: OwnedLog, disk: ClaimedDisk) -> ShardProcess:
        """See `Host`."""
        return ShardProcess(self, disk)

    def _took(self, log: OwnedLog, epoch: int, *rest: Any) -> None:
        super()._took(log, epoch, *rest)
        core = self.cores.get(log.name)
        if isinstance(core, ShardProcess) and core.alive and any(txn.heuristic for txn in core.core._book.live.values()):
            self.world.reach("a branch that was ended by hand was read by the next owner")

    def directory(self) -> common_pb2.Directory:
        """What it saw last, with what it has itself."""
        places = []
        for shard in self.view.shards if self.view else ():
            core = self.cores.get(shard.name)
            address, claim, leaving = (shard.owner if shard.held else ""), shard.claim, shard.leaving
            if core is not None:
                address, claim, leaving = self.name, core.disk.epoch, core.giving
            places.append(common_pb2.ShardPlace(coordinator=shard.name, address=address, claim=claim, leaving=leaving))
        return common_pb2.Directory(cell=CELL, shards=places)


class ShardProcess(Owned, CoordinatorProcess):
    """One shard, for as long as a node has it."""

    def __init__(self, node: Node, disk: ClaimedDisk) -> None:
        super().__init__(node.world, node.cell.network, node.cell.settings, node.name, disk)
        self.cell = node.cell
        self.shard = disk.log.name
        self.giving = False
        self._asked: dict[object, Callable[[Any], None]] = {}
        """What operators have asked, and who hears the answer."""
        self.on_administered = self._administered
        self.own(node)
        node.cell.on_made(self)

    def fresh_core(self) -> CoordinatorCore:
        """A core of the shard's name."""
        return CoordinatorCore(self.settings, self.shard, f"{self.world.random.getrandbits(32):08x}")

    def make_welcome(self, heard: int, seal_key: bytes = b"") -> participant_pb2.Welcome:
        """How the shell answers Hello."""
        welcome = super().make_welcome(heard, seal_key)
        welcome.coordinator = self.shard
        return welcome

    def answering(self, epoch_seen: int | None = None) -> CoordinatorProcess:
        """Itself."""
        return self

    # ---- operators

    def administer(self, request: Any, told: Callable[[Any], None]) -> None:
        """Ask the core; `told` hears its answer, or `None` when this process has the shard no more before it has answered."""
        if not self.alive:
            told(None)
            return
        ticket = object()
        self._asked[ticket] = told
        self.later(0.0, self.submit, into.Administer(ticket, request))

    def _administered(self, ticket: Any, response: Any) -> None:
        told = self._asked.pop(ticket, None)
        if told is not None:
            told(response)

    def died(self) -> None:
        """Everybody notices, and so does whoever waits for an answer."""
        super().died()
        waiting, self._asked = self._asked, {}
        if waiting and self.disk.log.epoch != self.disk.epoch:
            self.world.reach("an order was taken, and its owner was fenced")
        for told in waiting.values():
            told(None)

    # ---- keys

    def is_elsewhere(self, key: str) -> bool:
        """Whether a key is another shard's."""
        return bool(key) and self.cell.of_key(key) != self.shard

    def _hear_client(self, life: int, event: Any) -> None:
        if isinstance(event, into.Run | into.Begin) and self.is_elsewhere(event.request.key):
            self._in_life(life, self._send_on, (event,))
        else:
            super()._hear_client(life, event)

    def _send_on(self, event: Any) -> None:
        """As the shell does: nothing is begun, and what became of the key is known elsewhere."""
        self.world.reach("a key came to another shard")
        cause, number = common_pb2.Cause(reason=Reason.WRONG_SHARD.name, retryable=True), event.request.number
        if isinstance(event, into.Begin):
            self._tell_client(event.session, "begun", client_pb2.BeginResponse(number=number, refusal=cause))
        else:
            answer = client_pb2.Answer(number=number, transaction_id=f"{event.session}.{number}", cause=cause)
            answer.outcome = common_pb2.OUTCOME_IN_DOUBT
            self._tell_client(event.session, "answer", answer)

    # ---- handing over

    def drain(self, until: float) -> None:
        """Begin nothing new; give the log back once nothing is undecided, or when it takes too long."""
        self.submit(into.Administer(self, admin_pb2.DrainRequest()))
        self._leave_when_done(until)

    def _leave_when_done(self, until: float) -> None:
        if (self.core.undecided() and self.world.now < until) or self._writing or self._queued:
            self.later(0.03, self._leave_when_done, until)
            return
        self.maybe_crash("half-way through a hand-over")
        self.end("is GIVEN AWAY")
        if self.store.world.now >= self.store.away_until:
            self.store.release(self.disk.log, self.disk.epoch)


