"""A service that runs as several processes on one database: each has a slot, and visits those of the dead. Its data are shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

from participant_sdk.core import effects as out
from participant_sdk.core import events as into
from participant_sdk.core.branches import Config, State
from participant_sdk.core.core import ParticipantCore
from tests.sim.bank import Bank, Rows
from tests.sim.following import may_follow
from tests.sim.roles import ParticipantProcess
from tests.sim_cell.nodes import Cell, ShardProcess
from tests.sim_cell.owned import ClaimedDisk, Host, Owned
from tests.sim_cell.store import OwnedLog
from troth.cell import Places
from troth.ready import Opened
from troth.v1 import common_pb2, participant_pb2

SLOTS_MAX = 4
VISIT_AGAIN_SECONDS = 5.0


class RowLocks(MutableMapping[str, str]):
    """The database's row locks, as one slot sees them: its own by their transaction, and those of others by somebody else."""

    def __init__(self, shared: dict[str, tuple[str, str]], slot: str) -> None:
        self._shared, self._slot = shared, slot

    def __getitem__(self, account: str) -> str:
        slot, transaction_id = self._shared[account]
        return transaction_id if slot == self._slot else f"{transaction_id} in {slot}"

    def __setitem__(self, account: str, transaction_id: str) -> None:
        self._shared[account] = (self._slot, transaction_id)

    def __delitem__(self, account: str) -> None:
        del self._shared[account]

    def __iter__(self) -> Iterator[str]:
        return iter([account for account, (slot, _) in self._shared.items() if slot == self._slot])

    def __len__(self) -> int:
        return len(list(iter(self)))


class SlotBank(Bank):
    """The accounts of a service, as one slot works on them. Slots do not know each other's keys: row locks keep them apart, and a
    read sees what is decided."""

    def __init__(self, accounts: dict[str, int], locks: dict[str, tuple[str, str]], slot: str) -> None:
        super().__init__({})
        self.rows = Rows(accounts)
        self.row_locks = RowLocks(locks, slot)  # type: ignore[assignment]  # it is used as one

    def _run(self, transaction_id: str, operation: common_pb2.Operation, done: Any, changed: Any) -> common_pb2.Cause | None:
        cause = super()._run(transaction_id, operation, done, changed)
        self.violations.clear()
        return cause


class Service:
    """The processes of one service, as callers see them."""

    def __init__(self, cell: Cell, name: str, accounts: dict[str, int], config: Config) -> None:
        self.cell, self.name, self.config = cell, name, config
        self.accounts = accounts
        self.row_locks: dict[str, tuple[str, str]] = {}
        self.banks: list[SlotBank] = []
        self.workers: list[Worker] = []
        self._routes: dict[str, SlotProcess] = {}

    @property
    def bank(self) -> Bank:
        """The whole of it, to be looked at."""
        whole = Bank(self.accounts)
        for bank in self.banks:
            for transaction_id, changes in bank.rows.applied.items():
                whole.rows.applied.setdefault(transaction_id, []).extend(changes)
        return whole

    @property
    def disk(self) -> Any:
        """What all of its slots have written."""
        return SimpleNamespace(durable=[record for log in self.slots() for record in log.disk.durable])

    @property
    def core(self) -> Any:
        """What all of its slots have unfinished, whoever runs them."""
        return SimpleNamespace(states=lambda: [one for log in self.slots() for one in self.states_of(log)])

    def states_of(self, log: OwnedLog) -> Sequence[tuple[str, State]]:
        """What a slot has unfinished: as its process says, or as whoever comes next will read it."""
        for worker in self.workers:
            running = worker.cores.get(log.name)
            if isinstance(running, SlotProcess) and running.disk.epoch == log.epoch:
                return running.core.states()
        core = ParticipantCore(self.config)
        opened = Opened(log.disk.log_id, log.disk.position)
        core.recover([body for _, body in log.disk.durable], self.cell.world.instant(), opened)
        return core.states()

    def slots(self) -> list[OwnedLog]:
        """The logs of all of its slots."""
        return [log for name, log in sorted(self.cell.store.logs.items()) if name.startswith(f"{self.name}/")]

    def make_slot(self) -> OwnedLog | None:
        """A further one, unless there are enough."""
        number = len(self.slots())
        if number >= SLOTS_MAX:
            return None
        bank = SlotBank(self.accounts, self.row_locks, f"{self.name}/{number}")
        self.banks.append(bank)
        log = self.cell.store.logs[f"{self.name}/{number}"] = OwnedLog(f"{self.name}/{number}", bank)
        self.on_slot(log)
        return log

    on_slot: Callable[[OwnedLog], None] = staticmethod(lambda log: None)

    def running(self) -> list[SlotProcess]:
        """The slots that processes have of their own, and that serve."""
        own = [worker.own for worker in self.workers if worker.alive]
        return [one for one in own if one is not None and one.alive and one.serving]

    def running_all(self) -> list[SlotProcess]:
        """Every slot that a process has, its own or one that it visits."""
        running = [core for worker in self.workers for core in worker.cores.values()]
        return [core for core in running if isinstance(core, SlotProcess) and core.alive and core.serving]

    def route(self, transaction_id: str) -> SlotProcess | None:
        """Where a call of a transaction goes: mostly to one process, as a proxy sees to it by the header."""
        there, roll = self.running(), self.cell.world.random
        if not there:
            return None
        chosen = self._routes.get(transaction_id)
        if chosen not in there or roll.random() < 0.1:
            chosen = self._routes[transaction_id] = roll.choice(there)
        return chosen


class Worker(Host):
    """One process of a service: a slot of its own, and those of the dead that it visits."""

    def __init__(self, service: Service, number: int) -> None:
        super().__init__(service.cell.world, service.cell.store, f"{service.name}w{number}")
        self.service, self.cell = service, service.cell
        self._own = ""
        self._seen: dict[str, float] = {}
        """When each slot was owned last, as far as this process has seen."""

    @property
    def own(self) -> SlotProcess | None:
        """The slot that this process has."""
        core = self.cores.get(self._own)
        return core if isinstance(core, SlotProcess) else None

    def look(self) -> None:
        """Have a slot; look after those that nobody has."""
        for log in self.service.slots():
            core = self.cores.get(log.name)
            if core is not None and log.name != self._own and core.alive and core.is_quiet():
                core.end("is LEFT")
                self._seen[log.name] = self.world.now
                self.store.release(log, core.disk.epoch)
            elif core is None and self.may_adopt(log) and self.take(log):
                if self._own in self.cores or (self._own and self._own != log.name and self._own in self._claiming()):
                    self.world.reach("a slot was adopted")
                else:
                    self._own = log.name
        if not self._claiming() and (log := self.service.make_slot()) is not None and self.take(log):
            self._own = log.name

    def may_adopt(self, log: OwnedLog) -> bool:
        """A slot that its last owner has not given back, and any for who has none; now and then one that was given back, because
        a coordinator may have a question that only it can answer."""
        if self.store.lives(log):
            self._seen[log.name] = self.world.now
            return False
        return log.owner != "" or self._own not in self._claiming() or self.world.now - self._seen.setdefault(
            log.name, self.world.now
        ) > VISIT_AGAIN_SECONDS  # fmt: skip

    def _claiming(self) -> set[str]:
        """What it has, or will have in a moment."""
        return {log.name for log in self.service.slots() if log.backend is self and log.until > self.world.now} | set(self.cores)

    def make(self, log: OwnedLog, disk: ClaimedDisk) -> SlotProcess:
        """See `Host`."""
        return SlotProcess(self, disk)


class Seat:
    """The session with one shard."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.number = 0
        self.stream: Any = None
        self.welcomed = False
        self.asked = False
        """Whether its Hello only asked: then its Welcome lets nobody in."""
        self.tries = 0


class SlotProcess(Owned, ParticipantProcess):
    """One slot, for as long as a process has it; a session with each shard."""

    def __init__(self, worker: Worker, disk: ClaimedDisk) -> None:
        service = worker.service
        super().__init__(worker.world, disk.log.name, {}, worker.cell, service.config)  # type: ignore[arg-type]  # there are several: it has their network
        self.disk = disk
        self.giving = False
        self.cell, self.service = worker.cell, service
        self.places = Places()
        self.seats = {shard: Seat(shard) for shard in worker.cell.shards}
        self._by_number: dict[int, Seat] = {}
        self._beginning = False
        self.own(worker)

    @property
    def bank(self) -> Bank:
        """The service's, as this slot sees it."""
        bank = self.disk.bank
        assert bank is not None
        return bank

    def fresh_core(self) -> ParticipantCore:
        """A core that keeps who it is in its own log."""
        return ParticipantCore(self.config)

    def recovered(self) -> None:
        """What is unfinished has its rows locked, and nothing else has; then the core may begin."""
        self.opened_at = self.position
        self.incarnation = self.core.incarnation_seen
        if self.disk.log.epoch == self.disk.epoch:  # who was stopped since its claim finds the locks of who has the slot now
            for account in list(self.bank.row_locks):
                del self.bank.row_locks[account]
            for transaction_id, rows in self.core.recovered_rows():
                self.bank.recover_locks(transaction_id, list(rows))
        if self.incarnation == 0:
            self._begin()
        else:
            self._dial()

    def _begin(self) -> None:
        if not self._beginning:
            self._beginning = True
            self.submit(into.Start(self.core.incarnation_seen + 1, self.nonce))

    def is_quiet(self) -> bool:
        """Whether a visit is over."""
        return self.serving and not self.core.states() and all(seat.welcomed for seat in self.seats.values()) and not self._writing

    def died(self) -> None:
        """Everybody notices."""
        for seat in self.seats.values():
            if seat.stream is not None:
                seat.stream.break_()

    # ---- sessions

    def _dial(self) -> None:
        for seat in self.seats.values():
            self._dial_seat(seat)

    def _dial_seat(self, seat: Seat) -> None:
        if seat.stream is not None:
            return
        seat.tries += 1
        roll = self.world.random
        known = self.places.address(seat.shard) if seat.tries % 2 else ""
        address = known or roll.choice(sorted(self.cell.nodes))
        at = self.cell.at(address, seat.shard)
        cut = {(self.host.name, address), (address, self.host.name)} & self.cell.network.cuts
        if at is None or not at.alive or cut:
            directory = self.cell.directory(address)
            if directory is not None and not cut:
                self.places.learn(directory)
                self.world.reach("a dialler was sent on")
            self.later(roll.uniform(0.02, 0.2), self._dial_seat, seat)
            return
        self._greet(seat, at)

    def _greet(self, seat: Seat, at: ShardProcess) -> None:
        self._number += 1
        number, life, core = self._number, self.life, self.core
        seat.number, seat.welcomed, seat.asked = number, False, not self.begun
        self._by_number[number] = seat
        hello = participant_pb2.Hello(
            participant=self.name, log_id=self.disk.log_id, incarnation=self.incarnation + (not self.begun),
            nonce=self.nonce if self.begun else "", heard=core.coordinators.heard(), starts=core.starts.known,
            starts_after=core.starts.after, asks=not self.begun,
        )  # fmt: skip
        seat.stream = at.accept(
            self.name, hello, self.position, lambda *what: self._hear(life, number, *what), lambda: self._lost(life, number)
        )
        self.later(1.0, self._check_welcome, number)

    def _check_welcome(self, number: int) -> None:
        seat = self._by_number[number]
        if seat.number == number and not seat.welcomed and seat.stream is not None:
            seat.stream.break_()

    def _lost(self, life: int, number: int) -> None:
        if self.life == life and self._by_number[number].number == number:
            self._in_life(life, self._redial, (number,))

    def _redial(self, number: int) -> None:
        seat = self._by_number[number]
        if number == seat.number and seat.stream is not None:
            seat.stream = None
            seat.welcomed = False
            self.submit(into.Disconnected(number))
            self.later(self.world.random.uniform(0.001, 0.1), self._dial_seat, seat)

    def _welcome(self, number: int, message: participant_pb2.Welcome, position: int) -> None:
        seat = self._by_number[number]
        if number != seat.number or seat.welcomed or seat.stream is None:
            self.world.reach("stale welcome")
        elif not self.follows(message, position):
            seat.stream.break_()
        elif seat.asked:
            self._begin()
            seat.stream.break_()
        else:
            seat.welcomed = True
            life = (message.coordinator, message.epoch, message.log_id, message.nonce)
            self.submit(into.Connected(number, *life, cell=frozenset(self.cell.shards), position=position))

    def follows(self, welcome: participant_pb2.Welcome, position: int) -> bool:
        """Whether a coordinator is to be followed; the core writes it down."""
        return may_follow(self.core.coordinators, welcome, self.position, position) is not None

    def _send(self, number: int, field: str, message: object) -> None:
        seat = self._by_number.get(number)
        if seat is not None and seat.number == number and seat.stream is not None:
            seat.stream.send(1, field, message, self.position)

    def perform(self, effect: Any) -> None:
        """As the base. Its incarnation is durable before anybody hears of it."""
        if isinstance(effect, out.Started):
            self.begun, self.incarnation = True, effect.incarnation
        super().perform(effect)
