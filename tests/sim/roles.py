"""The coordinator and the participants as processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.core import effects as out
from coordinator.core import events as into
from coordinator.core.core import CoordinatorCore
from coordinator.core.model import Beginning
from coordinator.core.settings import CoreSettings
from participant_sdk.core import effects as participant_out
from participant_sdk.core import events as participant_into
from participant_sdk.core.branches import Config
from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.starts import Starts
from participant_sdk.core.work import ResourceKind
from tests.sim.bank import Bank, keys_of
from tests.sim.disk import Disk
from tests.sim.following import copied, may_follow
from tests.sim.network import End, Network, Stream
from tests.sim.process import Process
from tests.sim.races import watch_effect, watch_event
from tests.sim.world import World
from troth.backoff import Backoff
from troth.errors import Reason, RemoteProtocolError
from troth.ready import Core, Effect
from troth.seals import sealed
from troth.v1 import common_pb2, participant_pb2

SETTINGS = CoreSettings(
    session_linger_seconds=0.7, retention_seconds=600.0, resend_first_seconds=0.2, resend_cap_seconds=5.0,
    watermark_interval_seconds=0.4,
)  # fmt: skip
CONFIG = Config("", ResourceKind.ATOMIC, lock_wait_seconds=0.3, inquiry=Backoff(1.0, 30.0))

STRANGER = "stranger"
STRANGER_STREAM = 1_000_000

_OF_CLIENTS = (into.Run, into.Begin, into.Commit, into.Abort)


class CoordinatorProcess(Process):
    """The daemon: its core, the participants' streams and the clients' streams."""

    core: CoordinatorCore
    unseen = (out.Over,)

    def __init__(self, world: World, network: Network, settings: CoreSettings, name: str = "C", disk: Disk | None = None) -> None:
        super().__init__(world, name, disk or Disk())
        self.disk.log_id = self.disk.log_id or f"log-{name}"
        self.network = network
        self.coordinator = "c1"
        """What its transactions are named after."""
        self.settings = settings
        self._stream_number = 0
        self._session_number = 0
        self.streams: dict[int, Stream] = {}
        self.clients: dict[str, Stream] = {}
        self.on_administered: Callable[[Any, Any], None] = lambda ticket, response: None
        self.hellos: dict[int, participant_pb2.Hello] = {}
        self.welcomed: Callable[[CoordinatorProcess, participant_pb2.Hello], None] = lambda process, hello: None
        """Hears whom it welcomes, by the Hello that is answered."""
        self.on_hello: Callable[[CoordinatorProcess, participant_pb2.Hello], None] = lambda process, hello: None
        """Told of each Hello that its core has taken."""
        self.stale: CoordinatorProcess | None = None
        """A process that runs on an old copy of this one's disk."""
        self.stale_to_all = False
        """Whether everybody is led to that one, and not only who is sure to refuse it."""
        self.copied: frozenset[str] = frozenset()
        """Transactions that the copy of the disk speaks of."""
        self.on_answered: Callable[[str, Any], None] = lambda attempt, answer: None
        """Told of each answer to an attempt of a client, and to a question about one."""
        self.on_over: Callable[[out.Over], None] = lambda over: None
        """Told of each transaction that is over, for people."""
        self.on_begun: Callable[[str, Any], None] = lambda session, response: None
        """Told of each answer to a begin."""
        self.watching: set[Any] = set()
        """Tickets of those who watch a transaction."""
        self.echo: Callable[[Any, Sequence[str]], Any] = lambda message, live: None
        """What a participant that has no part in anything says just before a message, given the transactions that are live."""
        self.begun: set[str] = set()
        """Transactions of which a client spoke in this life, or that a participant announced."""
        self.found = 0
        """Records that this life found in the log."""

    def fresh_core(self) -> CoordinatorCore:
        """A core that has not read its log."""
        nonce = f"{self.world.random.getrandbits(32):08x}"
        return CoordinatorCore(self.settings, self.coordinator, nonce, nonce.encode())

    def make_core(self) -> Core:
        """A core with a nonce of its own."""
        self.streams.clear()
        self.clients.clear()
        self._session_number = 0
        self.begun.clear()
        self.found = len(self.disk.durable)
        return self.fresh_core()

    def answering(self, epoch_seen: int | None = None) -> CoordinatorProcess:
        """Who answers at the coordinator's address: the stale process now and then, while there is one. It is fenced at those who
        have seen a newer epoch; others would believe it (docs/explanation/testing.md says so), and are not led to it."""
        stale = self.stale
        if stale is None or not stale.alive or not (stale.serving or stale.hears()) or self.world.random.random() < 0.4:
            return self
        return stale if self.stale_to_all or epoch_seen is None or epoch_seen > stale.core.epoch else self

    def hears(self) -> bool:
        """Whether its life has not begun, and its participants are heard first; or it was refused."""
        return self.core._book.beginning is not Beginning.BEGUN

    def _step(self, event: Any, now: Any) -> None:
        if isinstance(event, into.FromParticipant) and event.participant == STRANGER:
            with suppress(RemoteProtocolError):  # it is told so, and nothing has changed
                self.core.step(event, now)
            return
        watch_event(self.world, self.core._book, event)
        if isinstance(event, _OF_CLIENTS):
            self.begun.add(f"{event.session}.{event.request.number}")
        super()._step(event, now)
        if isinstance(event, into.HelloReceived):
            self.on_hello(self, event.hello)
        for session in self.core._book.sessions.values():
            self.begun.update(f"{session.name}.{number}" for number in session.announced)
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
        self, name: str, hello: participant_pb2.Hello, position: int, receive: Callable[..., None], lost: Callable[[], None]
    ) -> Stream:
        """A participant dials."""
        self._stream_number += 1
        number = self._stream_number
        life = self.life
        mine = End(
            self.name, lambda *what: self._hear(life, name, number, *what), lambda: self._lose(life, name, number)
        )
        stream = Stream(self.network, mine, End(name, receive, lost))
        self.streams[number] = stream
        self.hellos[number] = hello
        self.later(0.0, self.submit, into.HelloReceived(name, number, hello, position))
        return stream

    def _hear(self, life: int, name: str, number: int, field: str, message: Any, position: int) -> None:
        if field == "reports":
            event: Any = into.ReportsReceived(name, number, [message], False)
        elif field == "complete":
            event = into.ReportsReceived(name, number, [], True)
        else:
            event = into.FromParticipant(name, number, message, position)
            self._in_life(life, self._let_stranger_say, (message,))
        self._in_life(life, self.submit, (event,))

    def _let_stranger_say(self, heard: Any) -> None:
        """The stranger is welcomed, has nothing to list, and no branch in any transaction. Whatever comes of it is no violation of
        this process: it is told so, comes back, and says the next thing."""
        core = self.core
        message = self.echo(heard, list(core._book.live))
        if message is None:
            return
        number = STRANGER_STREAM + self._stream_number
        hello = participant_pb2.Hello(participant=STRANGER, log_id="log-stranger", incarnation=1, nonce="stranger")
        self.hellos[number] = hello
        known = core._book.participants.get(STRANGER)
        if known is None or not known.ready:
            self.submit(into.HelloReceived(STRANGER, number, hello))
            self.submit(into.ReportsReceived(STRANGER, number, [], True))
            return
        self.world.reach("a stranger said what another participant says")
        self.submit(into.FromParticipant(STRANGER, known.stream, message))

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
        if isinstance(effect, out.Over):
            self.on_over(effect)
        elif isinstance(effect, out.Send):
            self._tell(effect.stream, effect.field, effect.message)
        elif isinstance(effect, out.Answered):
            self.on_answered(f"{effect.session}.{effect.answer.number}", effect.answer)
            self._tell_client(effect.session, "answer", effect.answer)
        elif isinstance(effect, out.Begun):
            self.on_begun(effect.session, effect.response)
            self._tell_client(effect.session, "begun", effect.response)
        elif isinstance(effect, out.Got):
            session, ticket = effect.ticket
            self.on_answered(ticket, effect.answer)
            self._tell_client(session, "got", (ticket, effect.answer))
        elif isinstance(effect, out.SendWatermark):
            self._tell(effect.stream, "watermark", effect.watermark)
        elif isinstance(effect, out.Welcomed):
            self.welcomed(self, self.hellos[effect.stream])
            self._tell(effect.stream, "welcome", self.make_welcome(effect.heard, effect.seal_key))
        elif isinstance(effect, out.MayBegin):
            self._tell(effect.stream, "welcome", self.make_welcome(effect.heard))
        elif isinstance(effect, out.Administered):
            self.on_administered(effect.ticket, effect.response)
        elif isinstance(effect, out.Rejected):
            if effect.cause.reason == Reason.LOG_WENT_BACK.name and self.hears():
                self.world.reach("a start on an older copy was refused")
                assert len(self.disk.durable) == self.found, "a start that was refused has written something"
            elif effect.cause.reason == Reason.LOG_WENT_BACK.name:
                self.world.reach("coordinator found its log lost something")
            stream = self.streams.pop(effect.stream, None)
            if stream is not None:
                stream.break_()

    def make_welcome(self, heard: int, seal_key: bytes = b"") -> participant_pb2.Welcome:
        """How the shell answers Hello."""
        book = self.core._book
        return participant_pb2.Welcome(
            coordinator=self.coordinator, epoch=book.epoch, nonce=book.nonce, log_id=book.lives.log_id, heard=heard,
            seal_key=seal_key,
        )  # fmt: skip

    def _tell(self, number: int, field: str, message: object) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            stream.send(0, field, message, self.position)

    def _tell_client(self, session: str, field: str, message: object) -> None:
        stream = self.clients.get(session)
        if stream is not None:
            stream.send(0, field, message)


Context = tuple[str, str, int, bool, bool]
"""Transaction, call id, first attempt, whether the caller is told who did the work, and whether it is its last call here."""
Answer = Callable[..., None]


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
        self.begun = False
        """Whether this process has begun its incarnation."""
        self.nonce = ""
        self.opened_at = 0
        self.starts = Starts()
        self.coordinators = Coordinators()
        """Durable before a Welcome is accepted, as in `participant_sdk.identity`."""
        self.stream: Stream | None = None
        self._number = 0
        self._tickets: dict[Any, Answer] = {}
        self.seal = ("", b"")
        """What the ids of the coordinator's present life begin with, and the key for early votes on them."""

    @property
    def bank(self) -> Bank:
        """The resource."""
        assert self.disk.bank is not None
        return self.disk.bank

    def fresh_core(self) -> ParticipantCore:
        """A core that has not read its log."""
        return ParticipantCore(self.config)

    def make_core(self) -> Core:
        """A core. Its incarnation begins when a coordinator would let it in, and is durable before it is used."""
        self.nonce = f"{self.world.random.getrandbits(32):08x}"
        self.begun = False
        self.stream = None
        self._tickets.clear()
        return self.fresh_core()

    def recovered(self) -> None:
        """Row locks are taken again, then the core may begin."""
        if self.long_absence and any(state.name == "PREPARED" for _, state in self.core.states()):
            self.world.reach("participant back after a long time")
        for transaction_id, rows in self.core.recovered_rows():
            self.bank.recover_locks(transaction_id, list(rows))
        self.opened_at = self.position
        if self.incarnation == 0:
            self._begin()
        else:
            self._dial()

    def _begin(self) -> None:
        self.incarnation += 1
        self.starts.begin(self.name, self.incarnation, self.nonce, self.opened_at)
        self.begun = True
        self.submit(participant_into.Start(self.incarnation, self.nonce))

    def died(self) -> None:
        """The coordinator's end notices."""
        if self.stream is not None:
            self.stream.break_()

    # ---- the session

    def _dial(self) -> None:
        if self.stream is not None:
            return
        coordinator = self.coordinator.answering(self.coordinators.epoch("c1"))
        if not coordinator.alive or coordinator.paused:
            coordinator.when_up(partial(self._in_life, self.life, self._dial, ()))
            return
        if {(self.name, "C"), ("C", self.name)} & coordinator.network.cuts:
            self.later(self.world.random.uniform(0.02, 0.2), self._dial)
            return
        self._number += 1
        number, life = self._number, self.life
        heard = copied(self.coordinators)
        heard.join(self.core.coordinators)
        hello = participant_pb2.Hello(
            participant=self.name, log_id=f"log-{self.name}", incarnation=self.incarnation + (not self.begun),
            nonce=self.nonce if self.begun else "", heard=heard.heard(), starts=self.starts.known,
            starts_after=self.starts.after, asks=not self.begun,
        )  # fmt: skip
        self.stream = coordinator.accept(
            self.name, hello, self.position, lambda *what: self._hear(life, number, *what), lambda: self._lost(life, number)
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

    def _hear(self, life: int, number: int, *what: Any) -> None:
        self._in_life(life, self._take, (number, *what))

    def _take(self, number: int, field: str, message: Any, position: int) -> None:
        if field == "welcome":
            self._welcome(number, message, position)
        elif field == "prepares":
            keys = keys_of(message.operations)
            self.submit(participant_into.PrepareReceived(number, message, tuple(message.operations), keys, position=position))
        else:
            self.submit(participant_into.FromCoordinator(number, message, position))

    def _welcome(self, number: int, message: participant_pb2.Welcome, position: int) -> None:
        if number != self._number or self._welcomed:
            self.world.reach("stale welcome")
        elif not self.follows(message, position):
            self.world.reach("coordinator with a stale epoch refused")
            if self.stream is not None:
                self.stream.break_()
        elif not self.begun:
            self._welcomed = True
            self.world.reach("participant asked before it began")
            self._begin()
            if self.stream is not None:
                self.stream.break_()
        else:
            self._welcomed = True
            life = (message.coordinator, message.epoch, message.log_id, message.nonce)
            self.seal = (f"{message.coordinator}.{message.epoch}.{message.nonce}.", message.seal_key)
            self.submit(participant_into.Connected(number, *life, position=position))

    def follows(self, welcome: participant_pb2.Welcome, position: int) -> bool:
        """Whether a coordinator is to be followed; written down if it is."""
        said = may_follow(self.coordinators, welcome, self.position, position)
        if said is not None:
            self.coordinators.replay(said)
        return said is not None

    # ---- calls of other services

    def call(self, ticket: Any, context: Context, operation: common_pb2.Operation, answer: Answer) -> None:
        """An interactive call arrives at the service; the answer tells in which incarnation it was done, and what that voted."""
        transaction_id, call_id, first_attempt_ms, told, last = context
        answered = partial(self._tell_caller, answer)
        self._tickets[ticket] = partial(self._vote_with, transaction_id, answered) if last else answered
        keys = keys_of([operation])
        self.submit(participant_into.Call(ticket, transaction_id, call_id, first_attempt_ms, operation, keys, told))

    def _tell_caller(self, answer: Answer, *told: Any) -> None:
        """It takes its time on the way."""
        self.world.after(self.coordinator.network.delay(), answer, *told)

    def _vote_with(self, transaction_id: str, answer: Answer, ok: bool, incarnation: int) -> None:
        """The last call of its caller has ended: as the shell does, ask for the vote, and answer with it."""
        life, key = self.seal
        if not ok or not key or not transaction_id.startswith(life):
            answer(ok, incarnation)
            return
        ticket = object()
        self._tickets[ticket] = partial(self._seal_with, transaction_id, answer)
        self.submit(participant_into.LastCall(ticket, transaction_id))

    def _seal_with(self, transaction_id: str, answer: Answer, count: int, incarnation: int) -> None:
        vote = None
        if count:
            self.world.reach("voted early")
            vote = participant_pb2.EarlyVote(
                transaction_id=transaction_id, incarnation=incarnation, operation_count=count, position=self.position
            )
        answer(True, self.incarnation, None if vote is None else sealed(self.seal[1], vote))

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
                answer(effect.cause is None, self.incarnation)
        elif isinstance(effect, participant_out.EarlyVoted):
            answer = self._tickets.pop(effect.ticket, None)
            if answer is not None:
                answer(effect.operation_count, effect.incarnation)

    def _send(self, number: int, field: str, message: object) -> None:
        if self.stream is not None and number == self._number:
            self.stream.send(1, field, message, self.position)
