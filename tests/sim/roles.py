"""The coordinator and the participants as processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.core import effects as out
from coordinator.core import events as into
from coordinator.core.core import CoordinatorCore
from coordinator.core.settings import CoreSettings
from participant_sdk.core import effects as participant_out
from participant_sdk.core import events as participant_into
from participant_sdk.core.branches import Config
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.work import ResourceKind
from tests.sim.bank import Bank, arguments_of, keys_of
from tests.sim.disk import Disk
from tests.sim.network import End, Network, Stream
from tests.sim.process import Process
from tests.sim.races import watch_effect, watch_event
from tests.sim.world import World
from troth.backoff import Backoff
from troth.ready import Core, Effect
from troth.v1 import common_pb2, participant_pb2

SETTINGS = CoreSettings(
    session_linger_seconds=0.7, retention_seconds=600.0, resend_first_seconds=0.2, resend_cap_seconds=5.0,
    watermark_interval_seconds=0.4,
)  # fmt: skip
CONFIG = Config("", ResourceKind.ATOMIC, lock_wait_seconds=0.3, inquiry=Backoff(1.0, 30.0))

_OF_CLIENTS = (into.Run, into.Begin, into.Commit, into.Abort)


class CoordinatorProcess(Process):
    """The daemon: its core, the participants' streams and the clients' streams."""

    core: CoordinatorCore

    def __init__(self, world: World, network: Network, settings: CoreSettings, name: str = "C", disk: Disk | None = None) -> None:
        super().__init__(world, name, disk or Disk())
        self.network = network
        self.settings = settings
        self._stream_number = 0
        self._session_number = 0
        self.streams: dict[int, Stream] = {}
        self.clients: dict[str, Stream] = {}
        self.on_administered: Callable[[Any, Any], None] = lambda ticket, response: None
        self.stale: CoordinatorProcess | None = None
        """A process that runs on an old copy of this one's disk."""
        self.copied: frozenset[str] = frozenset()
        """Transactions that the copy of the disk speaks of."""
        self.begun: set[str] = set()
        """Transactions of which a client spoke in this life."""

    def fresh_core(self) -> CoordinatorCore:
        """A core that has not read its log."""
        return CoordinatorCore(self.settings, "c1", f"{self.world.random.getrandbits(32):08x}")

    def make_core(self) -> Core:
        """A core with a nonce of its own."""
        self.streams.clear()
        self.clients.clear()
        self._session_number = 0
        self.begun.clear()
        return self.fresh_core()

    def answering(self, epoch_seen: int | None = None) -> CoordinatorProcess:
        """Who answers at the coordinator's address: the stale process now and then, while there is one. It is fenced at those who
        have seen a newer epoch; others would believe it (docs/explanation/testing.md says so), and are not led to it."""
        stale = self.stale
        if stale is None or not stale.alive or not stale.serving or self.world.random.random() < 0.4:
            return self
        return stale if epoch_seen is None or epoch_seen > stale.core.epoch else self

    def _step(self, event: Any, now: Any) -> None:
        watch_event(self.world, self.core._book, event)
        if isinstance(event, _OF_CLIENTS):
            self.begun.add(f"{event.session}.{event.request.number}")
        super()._step(event, now)
        if isinstance(event, into.Durable) and event.what == "epoch":
            self.serving = True

    def died(self) -> None:
        """Everybody's stream breaks."""
        if any(append.record is not None and append.record.WhichOneof("kind") == "ended" for append in self._queued):
            self.world.reach("Forget against a crashed END")
        for stream in [*self.streams.values(), *self.clients.values()]:
            stream.break_()

    # ---- participants

    def accept(
        self, name: str, hello: participant_pb2.Hello, receive: Callable[[str, object], None], lost: Callable[[], None]
    ) -> Stream:
        """A participant dials."""
        self._stream_number += 1
        number = self._stream_number
        life = self.life
        mine = End(
            self.name, lambda field, message: self._hear(life, name, number, field, message), lambda: self._lose(life, name, number)
        )
        stream = Stream(self.network, mine, End(name, receive, lost))
        self.streams[number] = stream
        self.later(0.0, self.submit, into.HelloReceived(name, number, hello))
        return stream

    def _hear(self, life: int, name: str, number: int, field: str, message: Any) -> None:
        if field == "reports":
            event: Any = into.ReportsReceived(name, number, [message], False)
        elif field == "complete":
            event = into.ReportsReceived(name, number, [], True)
        else:
            event = into.FromParticipant(name, number, message)
        self._in_life(life, self.submit, (event,))

    def _lose(self, life: int, name: str, number: int) -> None:
        if life == self.life and self.streams.pop(number, None) is not None:
            self._in_life(life, self.submit, (into.ParticipantLost(name, number),))

    # ---- clients

    def connect(self, asked: str, receive: Callable[[str, object], None], lost: Callable[[], None]) -> tuple[Stream, str]:
        """A client connects, and asks to resume a session; returns the session that it got."""
        session = asked
        if asked not in self._known_sessions():
            self._session_number += 1
            session = self.core.unary_session.removesuffix(".0") + f".{self._session_number}"
        if session in self.clients:
            self.clients[session].break_()
        life = self.life
        mine = End(
            self.name, lambda field, message: self._hear_client(life, message), lambda: self._lose_client(life, session, stream)
        )
        stream = Stream(self.network, mine, End("client", receive, lost), reliable=True)
        self.clients[session] = stream
        self.submit(into.SessionOpened(session))
        return stream, session

    def _known_sessions(self) -> Any:
        return self.core._book.sessions

    def _hear_client(self, life: int, event: Any) -> None:
        self._in_life(life, self.submit, (event,))

    def _lose_client(self, life: int, session: str, stream: Stream) -> None:
        if life == self.life and self.clients.get(session) is stream:
            del self.clients[session]
            self._in_life(life, self.submit, (into.SessionLost(session),))

    # ---- effects

    def perform(self, effect: Effect) -> None:
        """Carry one effect out."""
        watch_effect(self.world, self.core._book, effect)
        if self.world.tracing:
            self.world.say(f"{self.name} ->", effect)
        if isinstance(effect, out.Send):
            self._tell(effect.stream, effect.field, effect.message)
        elif isinstance(effect, out.Answered):
            self._tell_client(effect.session, "answer", effect.answer)
        elif isinstance(effect, out.Begun):
            self._tell_client(effect.session, "begun", effect.response)
        elif isinstance(effect, out.Got):
            session, ticket = effect.ticket
            self._tell_client(session, "got", (ticket, effect.answer))
        elif isinstance(effect, out.SendWatermark):
            self._tell(effect.stream, "watermark", effect.watermark)
        elif isinstance(effect, out.Welcomed):
            self._tell(effect.stream, "welcome", participant_pb2.Welcome(coordinator="c1", epoch=self.core.epoch))
        elif isinstance(effect, out.Administered):
            self.on_administered(effect.ticket, effect.response)
        elif isinstance(effect, out.Rejected):
            stream = self.streams.pop(effect.stream, None)
            if stream is not None:
                stream.break_()

    def _tell(self, number: int, field: str, message: object) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.send(0, field, message)

    def _tell_client(self, session: str, field: str, message: object) -> None:
        stream = self.clients.get(session)
        if stream is not None:
            stream.send(0, field, message)


class ParticipantProcess(Process):
    """A service: its core, its bank, and its stream to the coordinator."""

    core: ParticipantCore

    def __init__(
        self, world: World, name: str, accounts: dict[str, int], coordinator: CoordinatorProcess, config: Config = CONFIG
    ) -> None:
        super().__init__(world, name, Disk(Bank(accounts)))
        self.coordinator = coordinator
        self.config = replace(config, participant=name)
        self.incarnation = 0
        self.epoch_seen = 0
        """Durable before a Welcome is accepted, as in `participant_sdk.identity`."""
        self.stream: Stream | None = None
        self._number = 0
        self._tickets: dict[Any, Callable[[bool, object], None]] = {}

    @property
    def bank(self) -> Bank:
        """The resource."""
        assert self.disk.bank is not None
        return self.disk.bank

    def fresh_core(self) -> ParticipantCore:
        """A core that has not read its log."""
        return ParticipantCore(self.config)

    def make_core(self) -> Core:
        """A core, and an incarnation that is durable before it is used."""
        self.incarnation += 1
        self.stream = None
        self._tickets.clear()
        return self.fresh_core()

    def recovered(self) -> None:
        """Row locks are taken again, then the core may begin."""
        if self.long_absence and any(state.name == "PREPARED" for _, state in self.core.states()):
            self.world.reach("participant back after a long time")
        for transaction_id, rows in self.core.recovered_rows():
            self.bank.recover_locks(transaction_id, list(rows))
        self._inbox.append(participant_into.Start(self.incarnation))

    def died(self) -> None:
        """The coordinator's end notices."""
        if self.stream is not None:
            self.stream.break_()

    # ---- the session

    def _dial(self) -> None:
        if self.stream is not None:
            return
        coordinator = self.coordinator.answering(self.epoch_seen)
        if not coordinator.alive or coordinator.paused:
            coordinator.when_up(partial(self._in_life, self.life, self._dial, ()))
            return
        if {(self.name, "C"), ("C", self.name)} & coordinator.network.cuts:
            self.later(self.world.random.uniform(0.02, 0.2), self._dial)
            return
        self._number += 1
        number, life = self._number, self.life
        hello = participant_pb2.Hello(participant=self.name, log_id=f"log-{self.name}", incarnation=self.incarnation)
        self.stream = coordinator.accept(
            self.name, hello, lambda field, message: self._hear(life, number, field, message), lambda: self._lost(life, number)
        )
        # A Hello, or its Welcome, may be lost: then the dial times out.
        self.later(1.0, self._check_welcome, number)
        self._welcomed = False

    def _check_welcome(self, number: int) -> None:
        if self._number == number and not self._welcomed and self.stream is not None:
            self.stream.break_()

    def _lost(self, life: int, number: int) -> None:
        if number == self._number:
            self._in_life(life, self._redial, (number,))

    def _redial(self, number: int) -> None:
        if number == self._number and self.stream is not None:
            self.stream = None
            self.submit(participant_into.Disconnected(number))
            self.later(self.world.random.uniform(0.001, 0.1), self._dial)

    def _hear(self, life: int, number: int, field: str, message: Any) -> None:
        self._in_life(life, self._take, (number, field, message))

    def _take(self, number: int, field: str, message: Any) -> None:
        if field == "welcome":
            self._welcome(number, message)
        elif field == "prepares":
            keys = keys_of(list(message.operations))
            self.submit(participant_into.PrepareReceived(number, message, tuple(message.operations), keys))
        else:
            self.submit(participant_into.FromCoordinator(number, message))

    def _welcome(self, number: int, message: participant_pb2.Welcome) -> None:
        if number != self._number or self._welcomed:
            self.world.reach("stale welcome")
        elif self.is_stale(message.epoch):
            self.world.reach("coordinator with a stale epoch refused")
            if self.stream is not None:
                self.stream.break_()
        else:
            self.epoch_seen = message.epoch
            self._welcomed = True
            self.submit(participant_into.Connected(number, message.coordinator, message.epoch))

    def is_stale(self, epoch: int) -> bool:
        """Whether a newer epoch was seen: then it is another life that speaks."""
        return epoch < self.epoch_seen

    # ---- calls of other services

    def call(
        self, ticket: Any, context: tuple[str, str, int], operation: common_pb2.Operation, answer: Callable[[bool, object], None]
    ) -> None:
        """An interactive call arrives at the service."""
        transaction_id, call_id, first_attempt_ms = context
        self._tickets[ticket] = answer
        keys = (arguments_of(operation.arguments)[0],)
        self.submit(participant_into.Call(ticket, transaction_id, call_id, first_attempt_ms, operation, keys))

    def cancel(self, ticket: Any) -> None:
        """The caller of an interactive call is gone: whatever it was awaiting."""
        if self._tickets.pop(ticket, None) is not None:
            self.world.reach("caller cancelled")
            self.submit(participant_into.Cancelled(ticket))

    # ---- effects

    def perform(self, effect: Effect) -> None:
        """Carry one effect out."""
        if self.world.tracing:
            self.world.say(f"{self.name}->", effect)
        if isinstance(effect, participant_out.Send):
            self._send(effect.stream, effect.field, effect.message)
        elif isinstance(effect, participant_out.ReportsComplete):
            self._send(effect.stream, "complete", None)
        elif isinstance(effect, participant_out.Started):
            self.serving = True
            self._dial()
        elif isinstance(effect, participant_out.Reply):
            answer = self._tickets.pop(effect.ticket, None)
            if answer is not None:
                self.world.after(self.coordinator.network.delay(), answer, effect.cause is None, effect.result)

    def _send(self, number: int, field: str, message: object) -> None:
        if self.stream is not None and number == self._number:
            self.stream.send(1, field, message)
