"""The daemon and the participants as processes: production objects, and what the checkers look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.config import Config
from coordinator.core import effects as out
from coordinator.core.core import CoordinatorCore
from coordinator.server import Daemon
from participant_sdk import LogResource, Participant
from participant_sdk.context import entered
from participant_sdk.core.core import ParticipantCore
from participant_sdk.limits import Limits
from participant_sdk.session import Session
from participant_sdk.wiring import Wiring
from tests.sim.bank import Bank, Rows
from tests.sim_engine.limits import Drawn
from tests.sim_engine.loop import EngineWorld
from tests.sim_engine.network import Network
from tests.sim_engine.process import Process
from tests.sim_engine.resource import BankDisk, BankResource, Ledger, WorldDisk, register_bank, register_ledger
from troth.log.memory import Disk, MemoryLog
from troth.ready import Opened
from troth.v1 import client_pb2, common_pb2, participant_pb2

ADDRESS = "C"
SHELL = {
    "name": "c1", "listen": f"{ADDRESS}:1", "insecure": True, "hello_seconds": 2.0, "goodbye_seconds": 1.0, "drain_seconds": 3.0,
}  # fmt: skip


class Directory:
    """In place of a data directory: there is no other daemon."""

    def lock(self) -> None:
        """Take it."""

    def unlock(self) -> None:
        """Let go of it."""

    def write_address(self, address: str) -> None:
        """Nobody reads it."""

    def remove_address(self) -> None:
        """Nobody reads it."""


class WatchedDaemon(Daemon):
    """The daemon, with an ear for what it answers."""

    on_answer: Callable[[client_pb2.Answer], None]
    on_send: Callable[[Any], None]

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, out.Answered | out.Got):
            self.on_answer(effect.answer)
        self.on_send(effect)
        super()._perform(effect)


def bodies(disk: Disk) -> tuple[list[int], list[bytes]]:
    """What a start finds; in the form of `tests.sim.disk`."""
    return [record.seq for record in disk.durable], [record.body for record in disk.durable]


class Shelf:
    """The disk that the checkers read."""

    def __init__(self, disk: Disk) -> None:
        self.read = lambda: bodies(disk)

    def opened(self) -> Opened:
        """The log as a start finds it."""
        positions, _ = self.read()
        return Opened("a log", positions[-1] if positions else 0)


Told = list[client_pb2.AcknowledgedOperations]


class CoordinatorProcess(Process):
    """The daemon, whole, from its log to its gRPC handlers."""

    def __init__(self, world: EngineWorld, network: Network, drawn: Drawn) -> None:
        super().__init__(world, network, "C")
        self._disk = WorldDisk(world)
        self.disks = [self._disk]
        self.disk = Shelf(self._disk)
        self.forgetful = world.random.random() < 0.3
        self.daemon: WatchedDaemon | None = None
        self.on_answer: Callable[[client_pb2.Answer], None] = lambda answer: None
        self._going_down: asyncio.Event | None = None
        shell, settings = drawn.config.shell, drawn.config.core
        if self.forgetful:
            settings = replace(settings, retained_transactions_max=min(1, settings.retained_transactions_max))
        if world.random.random() < 0.3 and not drawn.narrow:
            shell = replace(shell, frame_bytes_max=world.random.choice([400, 800]))
        self._config = Config(shell, settings)

    @property
    def core(self) -> CoordinatorCore:
        """The core that lives, or lived last."""
        assert self.daemon is not None
        core: Any = self.daemon._core
        return core  # type: ignore[no-any-return]  # the daemon sees less of it

    def opened(self) -> Opened:
        """See `Shelf.opened`."""
        return self.disk.opened()

    def make_core(self) -> CoordinatorCore:
        """A core, to read the log with."""
        return CoordinatorCore(self._config.core, "c1", "00000000")

    async def main(self) -> None:
        """Serve until the log fails, or until told to go down."""
        nonce = f"{self.world.random.getrandbits(32):08x}"
        core = CoordinatorCore(self._config.core, "c1", nonce, nonce.encode())
        log = MemoryLog(self._disk, role="coordinator", name="c1")
        directory: Any = Directory()
        daemon = WatchedDaemon(self._config, core, log, directory, nonce)
        daemon.on_answer, daemon.on_send = self.on_answer, self._trace
        await daemon.start()
        self.daemon = daemon
        self._going_down = stop = asyncio.Event()
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopping, daemon.failed), return_when=asyncio.FIRST_COMPLETED)
        if not daemon.failed.done():
            await daemon.drain()
            await daemon.stop()
        else:
            self.world.reach("coordinator's log failed")
            await daemon.abandon()

    def stop(self) -> None:
        """SIGTERM."""
        if self.life is not None and self._going_down is not None:
            self.world.reach("coordinator stopped in order")
            self.life.context.copy().run(self._going_down.set)

    def died(self) -> None:
        """Count what the engine complained of."""
        self._going_down = None

    def _trace(self, effect: Any) -> None:
        if self.world.tracing:
            self.world.say("C ->", effect)

    def at_rest(self) -> bool:
        """Whether nothing is open."""
        return self.life is not None and self.daemon is not None and not self.core.open_transactions()


class WatchedSession(Session):
    """A participant's session, with an ear for what it says."""

    on_send: Callable[[str, Any], None] = staticmethod(lambda field, message: None)
    on_hello: Callable[[participant_pb2.Hello], None] = staticmethod(lambda hello: None)

    async def _greet_and_run(self, call: Any) -> None:
        self.on_hello(self._owner.hello())
        await super()._greet_and_run(call)

    def send(self, stream: int, field: str, message: Any, *, patient: bool = False) -> None:
        """See `Session.send`."""
        if self._outbox is not None and stream == self._streams:
            self.on_send(field, message)
        super().send(stream, field, message, patient=patient)


class ParticipantProcess(Process):
    """A service with a bank, or with a ledger behind a `LogResource`."""

    def __init__(
        self, world: EngineWorld, network: Network, name: str, accounts: dict[str, int], limits: Limits, *, ledger: bool
    ) -> None:
        super().__init__(world, network, name)
        self._limits = limits
        self.participant: Participant | None = None
        self.newest_start = (0, "")
        """The newest incarnation that it said, with its nonce."""
        self.on_send: Callable[[str, str, Any], None] = lambda name, field, message: None
        self._going_down: asyncio.Event | None = None
        self._sdk = WorldDisk(world)
        self.bank: Bank | Ledger
        if ledger:
            self.bank = Ledger(world, accounts)
            self.disks = [self._sdk]
            self.disk = Shelf(self._sdk)
        else:
            bank = self.bank = Bank(accounts)
            self._bank_disk = BankDisk(world, bank)
            self.disks = [self._bank_disk, self._sdk]
            self.disk = Shelf(self._bank_disk)

    @property
    def rows(self) -> Rows:
        """What stands."""
        return self.bank.rows

    @property
    def core(self) -> ParticipantCore:
        """The core that lives, or lived last."""
        assert self.participant is not None and self.participant._runtime is not None
        return self.participant._runtime.core

    def opened(self) -> Opened:
        """See `Shelf.opened`."""
        return self.disk.opened()

    def make_core(self) -> ParticipantCore:
        """A core, to read the log with."""
        return ParticipantCore(self.core._m.config)

    def _make(self) -> Participant:
        bank = isinstance(self.bank, Bank)
        resource: Any = BankResource(self._bank_disk, self.name) if bank else LogResource(on_commit=self.bank.on_commit)  # type: ignore[union-attr]  # it is a ledger
        participant = Participant(
            self.name,
            resource=resource,
            data_directory="nowhere",
            coordinator=f"{ADDRESS}:1",
            limits=self._limits,
            wiring=Wiring(session=self._session, log=self._log),
        )
        (register_bank if bank else register_ledger)(participant)
        return participant

    def _session(self, name: str, address: str, owner: Any) -> Session:
        session = WatchedSession(name, address, owner)
        session.on_send = lambda field, message: self._said(field, message)  # type: ignore[method-assign]  # an ear
        session.on_hello = self._introduced  # type: ignore[method-assign]  # an ear
        return session

    def _said(self, field: str, message: Any) -> None:
        self.world.say(f"{self.name}->", f"{field} {message}") if self.world.tracing else None
        self.on_send(self.name, field, message)

    def _log(self, path: Path, name: str) -> MemoryLog:
        return MemoryLog(self._sdk, role="participant", name=name, log_id=f"{name:0>32}")

    async def main(self) -> None:
        """Serve until the log fails, or until told to go down."""
        participant = self._make()
        async with participant:
            self.participant = participant
            self._going_down = stop = asyncio.Event()
            stopping = asyncio.ensure_future(stop.wait())
            serving = asyncio.ensure_future(participant.serve())
            await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                self.world.reach("participant's log failed")
                serving.result()
            serving.cancel()

    def _introduced(self, hello: participant_pb2.Hello) -> None:
        """Each life that has begun has an incarnation of its own, higher than all before."""
        start = (hello.incarnation, hello.nonce)
        if hello.asks:
            self.world.reach("participant asked before it began")
        elif start != self.newest_start:
            if start[0] <= self.newest_start[0]:
                self.world.unexpected.append(f"{self.name} is {start}, and was {self.newest_start} before")
            self.newest_start = start

    def stop(self) -> None:
        """SIGTERM."""
        if self.life is not None and self._going_down is not None:
            self.world.reach("participant stopped in order")
            self.life.context.copy().run(self._going_down.set)

    def died(self) -> None:
        """It cannot be told to stop any more."""
        self._going_down = None

    # ---- the service

    async def serve(self, context: common_pb2.TransactionContext, name: str, arguments: dict[str, Any]) -> Told:
        """One call of the service's API: one operation in the branch; returns what was acknowledged."""
        assert self.participant is not None
        with entered(context, tells=self.world.random.random() < 0.9) as scope:
            await self.participant.branch().run(name, **arguments)
        return scope.acknowledgements

    def guess(self) -> client_pb2.AcknowledgedOperations:
        """What a call will acknowledge, if all goes well."""
        one = self.participant
        if one is None or one._runtime is None or self.life is None:
            return client_pb2.AcknowledgedOperations(unknown=True)
        return client_pb2.AcknowledgedOperations(participant=one.slot, count=1, incarnation=one._runtime.incarnation)

    async def look(self, account: str) -> int:
        """A local read, which sees nothing undecided."""
        assert self.participant is not None
        value: int = await self.participant.read(self._read_account(account), locks=[account])
        return value

    def _read_account(self, account: str) -> Callable[[Any], int]:
        def read(rows: Any) -> int:
            bank = self.bank
            if account in bank.row_locks:
                bank.violations.append(f"isolation: a local read of {account}, which {bank.row_locks[account]} has changed")
            return bank.rows.accounts[account]

        return read

    def ready_to_serve(self) -> bool:
        """Whether calls of the service's API are taken."""
        return self.life is not None and self._going_down is not None
