"""How what an operator asks reaches the shards that it is for, as `coordinator.cell.routing` does it: through any node, passed on
once by what its directory says, and put together by production's own `merging`.

Everything on the way takes its time, and may get lost: a node that is dead refuses, one that is stopped says nothing until it
wakes, one that has just lost the shard says so, and an answer may never arrive. Whoever asked knows then that nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coordinator.cell import merging
from tests.sim_cell.nodes import Cell, Node, ShardProcess
from troth.cell import coordinator_of
from troth.v1 import admin_pb2, record_pb2

Told = Callable[[Any], None]
"""Hears the answer, or `None` where there is none: then nobody knows what came of it."""

PATIENCE_SECONDS = 1.2
LOST = 0.06
"""How often an answer is lost on its way."""

EVERYWHERE: dict[type, Callable[[Any, Sequence[Any]], Any]] = {
    admin_pb2.ListTransactionsRequest: lambda request, answers: merging.transactions(request, answers),
    admin_pb2.ListParticipantsRequest: lambda request, answers: merging.participants(request, answers),
    admin_pb2.ReplaceParticipantRequest: lambda request, answers: merging.orders(answers),
    admin_pb2.ForgetParticipantRequest: lambda request, answers: merging.orders(answers),
}
"""What all shards are asked, and how their answers are put together."""


class Desk:
    """The nodes of a cell, as operators use them."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def ask(self, address: str, request: Any, told: Told) -> None:
        """Ask a node; `told` hears of it once, at the latest when patience has ended."""
        call = Call(self, self.cell.nodes[address], request, told)
        self.cell.world.after(self.cell.network.delay(), call.arrive)
        self.cell.world.after(PATIENCE_SECONDS, call.end, None)

    def shards_of(self, request: Any) -> Sequence[str]:
        """Which shards a request is for."""
        if isinstance(request, record_pb2.Review):
            return (request.review.rpartition("-")[0],)  # what waits is named after its shard
        return self.cell.shards if type(request) in EVERYWHERE else (coordinator_of(request.transaction_id),)

    def drain(self, node: Node, told: Told) -> None:
        """`troth drain`: of one node, which then has shards no more, until it is started again."""
        node.later(self.cell.network.delay(), self._drain, node, told)

    def _drain(self, node: Node, told: Told) -> None:
        node.draining = True
        for core in list(node.cores.values()):
            if isinstance(core, ShardProcess):
                core.administer(admin_pb2.DrainRequest(), lambda answer: None)
        told(admin_pb2.DrainResponse())


class Call:
    """One request, on the node that was asked."""

    def __init__(self, desk: Desk, node: Node, request: Any, told: Told) -> None:
        self._desk, self._node, self._request, self._told = desk, node, request, told
        self._world = desk.cell.world
        self._answers: dict[str, Any] = {}
        self._life = 0
        self._over = False

    def arrive(self) -> None:
        """At the node."""
        if not self._node.alive:
            self.end(None)
            return
        self._life = self._node.life
        self._node.later(0.0, self._begin)

    def _begin(self) -> None:
        for shard in self._desk.shards_of(self._request):
            self._ask(shard)

    def _ask(self, shard: str) -> None:
        core = self._node.cores.get(shard)
        if isinstance(core, ShardProcess):
            if core.giving:
                self._world.reach("an operator asked a node that was losing the shard")
            core.administer(merging.copy_of(self._request), partial(self._got, shard))
            return
        directory = self._node.directory()
        address = next((place.address for place in directory.shards if place.coordinator == shard), "")
        if address in ("", self._node.name):
            self._got(shard, None)
            return
        self._world.reach("an operator's request was passed on")
        self._world.after(self._desk.cell.network.delay(), self._pass_on, shard, self._desk.cell.nodes[address])

    def _pass_on(self, shard: str, other: Node) -> None:
        """What was passed on once is never passed on again."""
        if other.alive:
            other.later(0.0, self._ask_directly, shard, other)
        else:
            self._come_back(shard, None)

    def _ask_directly(self, shard: str, other: Node) -> None:
        core = other.cores.get(shard)
        if isinstance(core, ShardProcess):
            core.administer(merging.copy_of(self._request), partial(self._come_back, shard))
        else:
            self._world.reach("a stale directory sent an operator to who had the shard no more")
            self._come_back(shard, None)

    def _come_back(self, shard: str, answer: Any) -> None:
        self._world.after(self._desk.cell.network.delay(), self._got, shard, answer)

    def _got(self, shard: str, answer: Any) -> None:
        """A shard has answered, or cannot be asked; a node that died meanwhile has forgotten who asked."""
        if self._node.life != self._life or not self._node.alive:
            return
        self._answers[shard] = answer
        shards = self._desk.shards_of(self._request)
        if len(self._answers) == len(shards):
            self._world.after(self._desk.cell.network.delay(), self._tell, self.together([self._answers[one] for one in shards]))

    def together(self, answers: Sequence[Any]) -> Any:
        """One answer of all; none, if one of them has none."""
        if any(answer is None for answer in answers):
            return None
        merge = EVERYWHERE.get(type(self._request))
        return answers[0] if merge is None else merge(self._request, answers)

    def _tell(self, answer: Any) -> None:
        if answer is not None and self._world.random.random() < LOST and not self._desk.cell.store.calm:
            self._world.reach("an answer to an operator was lost")
            answer = None
        self.end(answer)

    def end(self, answer: Any) -> None:
        """Whoever asked is told, once."""
        if not self._over:
            self._over = True
            self._told(answer)
