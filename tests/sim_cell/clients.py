"""Callers of a cell: a session with each shard; work without a key on any, a key on its own; services of several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.clients import Attempt, Client, History
from tests.sim.network import Network
from tests.sim.workload import Workload
from tests.sim.world import World
from tests.sim_cell.nodes import Cell
from tests.sim_cell.services import Service, SlotProcess
from troth.cell import Places, coordinator_of
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2

AGAIN_SECONDS = 0.1


class Nobody:
    """Who answers where no node has the shard: nobody, and the caller comes again."""

    alive = paused = serving = False

    def __init__(self, world: World) -> None:
        self._world = world

    def when_up(self, action: Callable[[], None]) -> None:
        """Try again soon."""
        self._world.after(self._world.random.uniform(AGAIN_SECONDS / 4, AGAIN_SECONDS), action)


class Door:
    """The way of one client to one shard: by its directory every other time, and by any node in between."""

    alive = False
    """It is no process that could be watched."""

    def __init__(self, cell: Cell, shard: str, places: Places) -> None:
        self.cell, self.shard, self._places = cell, shard, places
        self._tries = 0

    @property
    def network(self) -> Network:
        """Of the run."""
        return self.cell.network

    def answering(self) -> Any:
        """The shard, if the node that is dialled has it."""
        self._tries += 1
        known = self._places.address(self.shard) if self._tries % 2 else ""
        address = known or self.cell.world.random.choice(sorted(self.cell.nodes))
        found = self.cell.at(address, self.shard)
        if found is None or not found.alive:
            directory = self.cell.directory(address)
            if directory is not None:
                self._places.learn(directory)
            return Nobody(self.cell.world)
        return found


class CallerOf(Client):
    """A client's session with one shard."""

    def __init__(self, door: Door, name: str, services: dict[str, Service], history: History) -> None:
        fronts = {name: Front(service) for name, service in services.items()}
        super().__init__(door.cell.world, name, door, fronts, history)  # type: ignore[arg-type]  # what it uses of them is there
        self.door, self.shard = door, door.shard
        self.siblings: dict[str, CallerOf] = {}

    def wonder(self, attempt: Attempt) -> None:
        """Of another shard's transaction that shard is asked."""
        super(CallerOf, self.siblings[coordinator_of(attempt.transaction_id)]).wonder(attempt)

    def _hear_got(self, transaction_id: str, answer: client_pb2.Answer) -> None:
        """What only a log could tell that is lost is never known: nobody asks on."""
        attempt = self.asking.get(transaction_id)
        if attempt is not None and self.door.cell.is_for_good(answer):
            self.world.reach("a question stays in doubt, since a log is lost")
            del self.asking[transaction_id]
            self._end(attempt, common_pb2.OUTCOME_IN_DOUBT, None, told=False)
        else:
            super()._hear_got(transaction_id, answer)

    def _hear_answer(self, answer: client_pb2.Answer) -> None:
        """Who knew nothing of shards is told of them, and does it again at the right one."""
        attempt = self.pending.get(answer.transaction_id)
        if attempt is not None and answer.cause.reason == Reason.WRONG_SHARD.name:
            self._drop(attempt)
            self.on_orphan(attempt)
        else:
            super()._hear_answer(answer)

    def _ask(self, attempt: Attempt) -> None:
        """What was under a key is asked at the key's shard alone; of an attempt that never began there nobody knows anything."""
        if attempt.key and self.door.cell.of_key(attempt.key) != self.shard:
            self._drop(attempt)
        else:
            super()._ask(attempt)

    def _drop(self, attempt: Attempt) -> None:
        for waiting in (self.pending, self.asking, self.on_end):
            waiting.pop(attempt.transaction_id, None)

    def _call(
        self, attempt: Attempt, name: str, op: common_pb2.Operation, call_id: str, last: bool, answer: Callable[..., None]
    ) -> None:
        front = self.participants[name]
        assert isinstance(front, Front)
        front.transaction_id = attempt.transaction_id
        super()._call(attempt, name, op, call_id, last, answer)

    def _branches_of(self, attempt: Attempt) -> list[client_pb2.AcknowledgedOperations]:
        """By slot: that is who has the branch."""
        named = []
        for (_, at), count in attempt.acknowledged.items():
            slot, incarnation = at  # type: ignore[misc]  # as `Front.incarnation` has it
            named.append(client_pb2.AcknowledgedOperations(participant=slot, count=count, incarnation=incarnation))
        return [*named, client_pb2.AcknowledgedOperations(unknown=True)] if attempt.unknown else named


class Front:
    """A service, as a client calls it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transaction_id = ""

    def _slot(self) -> SlotProcess | None:
        return self.service.route(self.transaction_id)

    @property
    def alive(self) -> bool:
        """Whether a process answers."""
        return self._slot() is not None

    @property
    def incarnation(self) -> tuple[str, int]:
        """Who would do it."""
        slot = self._slot()
        return ("", 0) if slot is None else (slot.name, slot.incarnation)

    def later(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """The call arrives at one process."""
        slot = self._slot()
        if slot is not None:
            slot.later(delay, action, slot, *arguments)

    def call(self, slot: SlotProcess, ticket: Any, context: Any, op: Any, answer: Callable[[bool, Any], None]) -> None:
        """Do one operation there."""
        slot.call(ticket, context, op, lambda ok, incarnation: answer(ok, (slot.name, incarnation)))

    def cancel(self, slot: SlotProcess, ticket: Any) -> None:
        """Give up waiting."""
        slot.cancel(ticket)


class CellWorkload(Workload):
    """As at the level `core`; a key goes to its shard, and now and then to another, by who knows nothing of shards."""

    cell: Cell

    def pick(self, attempt: Attempt) -> Client:
        """The session for an attempt."""
        own = attempt.random
        clients = self.clients if not attempt.key or own.random() < 0.1 else self.of_shard(self.shard_of(attempt.key))
        return own.choice(clients)

    def of_shard(self, shard: str) -> list[Client]:
        """The sessions with a shard."""
        return [client for client in self.clients if isinstance(client, CallerOf) and client.shard == shard]

    def shard_of(self, key: str) -> str:
        """Where a key is run."""
        return self.cell.of_key(key)

