"""A hand that drives the coordinator's core: it says when a record becomes durable, and keeps what came out."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.core import CoordinatorCore
from coordinator.core.model import Transaction
from coordinator.core.settings import CoreSettings
from tests.sim.leftovers import inconsistent
from troth.ready import Append, Instant, Opened
from troth.v1 import client_pb2, common_pb2, participant_pb2, record_pb2

FEW = 20
WALL_MS = 1_800_000_000_000
NONCE = "0123abcd"
SECRET = b"s" * 32
LOG_ID = "log-c1"
EARLIER = record_pb2.CoordinatorRecord(
    epoch_started=record_pb2.EpochStarted(coordinator="c1", epoch=0, nonce=NONCE, kept=True)
).SerializeToString()
"""The life before the first one of a test: transactions of it have begun in this very log."""


class Driver:
    """One coordinator with the clients' session `self.session` and the participants a, b and c connected.

    Without `connect` nobody is there; without `serve` even its epoch's record waits. `hearing` is how long a start waits for those
    whom the log has bound.
    """

    def __init__(
        self, settings: CoreSettings | None = None, records: list[bytes] | None = None, *, connect: bool = True, at: float = 0.0,
        nonce: str = NONCE, serve: bool = True, hearing: float = 0.0, grace: float = 0.0,
        unreadable: bool = False,
    ) -> None:  # fmt: skip
        self.now = at
        self.wall_ahead_ms = 0
        settings = settings or CoreSettings(resend_first_seconds=0.5)
        settings = replace(settings, hearing_seconds=hearing, recovery_grace_seconds=grace)
        self.core = CoordinatorCore(settings, "c1", nonce, SECRET)
        self.log: list[bytes] = list(records if records is not None else [EARLIER])
        self.forced = 0
        self.waiting: list[Append] = []
        self.out: list[Any] = []
        self.over: list[effects.Over] = []
        """What people were told to be over; apart from what peers hear."""
        self.refused: list[effects.Refused] = []
        """What was counted as refused before it was a transaction; apart, too."""
        self.owners = list(self.core.recover(self.log, self.instant(), Opened(LOG_ID, len(self.log), unreadable)))
        self.session = self.core.unary_session[:-1] + "1"
        self._take()
        if not serve:
            return
        self.sync()
        self.out.clear()
        self.forced = 0
        if connect:
            self.step(events.SessionOpened(self.session))
            for number, name in enumerate("abc", 1):
                self.connect(name, number)
            self.sync()
            self.out.clear()
            self.forced = 0

    @property
    def book(self) -> Any:
        """The core's book."""
        return self.core._book

    def instant(self) -> Instant:
        """Both clocks, in step unless the wall clock has jumped."""
        return Instant(self.now, WALL_MS + int(self.now * 1000) + self.wall_ahead_ms)

    def step(self, event: Any) -> None:
        """One event; records wait."""
        try:
            self.core.step(event, self.instant())
        finally:
            self._take()
        self._check()

    def _check(self) -> None:
        """Whatever a test is about, the book's counters are what they count; not where a test floods it, which would take long."""
        if len(self.book.live) + len(self.book.finished) <= FEW:
            assert list(inconsistent(self.book)) == []

    def wait(self, seconds: float) -> None:
        """Let time pass, with every tick that is due on the way."""
        end = self.now + seconds
        while (due := self.core.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.core.tick(self.instant())
            self._take()
            self._check()
        self.now = end

    def _take(self) -> None:
        ready = self.core.take_ready()
        self.over += [effect for effect in ready.effects if isinstance(effect, effects.Over)]
        self.refused += [effect for effect in ready.effects if isinstance(effect, effects.Refused)]
        self.out += [effect for effect in ready.effects if not isinstance(effect, (effects.Over, effects.Refused))]
        self.waiting.extend(ready.appends)

    def sync(self) -> None:
        """Make everything that waits durable, and what follows from it."""
        while self.waiting:
            self.sync_batch()

    def sync_batch(self) -> None:
        """Make what waits now durable; what follows from it may wait again."""
        batch, self.waiting = self.waiting, []
        for append in batch:
            self.log.append(append.record.SerializeToString())
            self.owners.append(append.owner)
            self.forced += append.force
            self.out.extend(append.effects)
            if append.event is not None:
                self.step(append.event)

    # ---- peers

    def connect(
        self, name: str, stream: int, incarnation: int = 1, log_id: str = "", reports: Any = (), complete: bool = True
    ) -> None:
        """A participant's Hello, with what it lists."""
        hello = participant_pb2.Hello(participant=name, log_id=log_id or f"log-{name}", incarnation=incarnation)
        self.step(events.HelloReceived(name, stream, hello))
        self.sync()
        self.step(events.ReportsReceived(name, stream, list(reports), complete))

    def lose(self, name: str) -> None:
        """A participant's stream ends."""
        self.step(events.ParticipantLost(name, self.book.participants[name].stream))

    def say(self, name: str, message: Message, position: int = 0) -> None:
        """A participant says something on its present stream, in a frame that tells how far its log is."""
        stream = self.book.participants[name].stream
        self.step(events.FromParticipant(name, stream, message, position))  # type: ignore[arg-type]  # any message

    def vote(self, name: str, number: int, kind: str = "YES", results: bytes = b"", reason: str = "REFUSED") -> None:
        """A vote."""
        cause = common_pb2.Cause(reason=reason, code="NO_FUNDS") if kind == "NO" else None
        vote_kind = participant_pb2.VoteKind.Value(f"VOTE_KIND_{kind}")
        self.say(name, participant_pb2.Vote(transaction_id=self.id(number), kind=vote_kind, results=results, cause=cause))

    def acknowledge(self, name: str, number: int, kind: str = "DONE") -> None:
        """An acknowledgement."""
        value = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{kind}")
        self.say(name, participant_pb2.Acknowledgement(transaction_id=self.id(number), kind=value))

    def settle(self, name: str, transaction_id: str, kind: str, results: bytes = b"") -> None:
        """An answer to rollback-if-unseen."""
        value = participant_pb2.SettlementKind.Value(f"SETTLEMENT_KIND_{kind}")
        self.say(name, participant_pb2.Settlement(transaction_id=transaction_id, kind=value, results=results))

    # ---- clients

    def id(self, number: int) -> str:
        """The id of the transaction with this number."""
        return f"{self.session}.{number}"

    def request(self, number: int, names: str, **fields: Any) -> client_pb2.RunRequest:
        """A request of one operation at each participant."""
        self._aged(fields)
        request = client_pb2.RunRequest(number=number, timeout_ms=fields.pop("timeout_ms", 5000), **fields)
        for name in names:
            request.branches.add(participant=name, operations=[common_pb2.Operation(name="work", arguments=b"x")])
        return request

    def _aged(self, fields: dict[str, Any]) -> None:
        """With a key the time of the first attempt goes along: now, unless the test says another."""
        if fields.get("key"):
            fields.setdefault("first_attempt_ms", self.instant().wall_ms)

    def run(self, number: int, names: str, **fields: Any) -> None:
        """A one-shot transaction."""
        self.step(events.Run(self.session, self.request(number, names, **fields)))

    def complete(self, number: int, names: str) -> None:
        """A one-shot transaction from its request to the last acknowledgement."""
        self.run(number, names)
        for name in names:
            self.vote(name, number)
        self.sync()
        for name in names:
            self.acknowledge(name, number)
        self.sync()

    def begin(self, number: int, **fields: Any) -> None:
        """An interactive transaction."""
        self._aged(fields)
        request = client_pb2.BeginRequest(number=number, timeout_ms=fields.pop("timeout_ms", 5000), **fields)
        self.step(events.Begin(self.session, request))

    def enlist(self, name: str, number: int) -> None:
        """A participant enlists."""
        self.say(name, participant_pb2.Enlist(transaction_id=self.id(number)))

    def commit(self, number: int, result: bytes = b"", *, optional: bool = False, **counts: int) -> None:
        """The client commits."""
        request = client_pb2.CommitRequest(number=number, result=result, result_optional=optional)
        for name, count in counts.items():
            request.acknowledged.add(participant=name, count=count)
        self.step(events.Commit(self.session, request))

    def abort(self, number: int) -> None:
        """The client rolls back."""
        self.step(events.Abort(self.session, client_pb2.AbortRequest(number=number)))

    def get(self, transaction_id: str, names: str = "", first_attempt_ms: int = 0) -> None:
        """The client asks."""
        request = client_pb2.GetRequest(transaction_id=transaction_id, participants=names, first_attempt_ms=first_attempt_ms)
        self.step(events.Get("ticket", request))

    # ---- what came out

    def take(self, kind: type) -> list[Any]:
        """The effects of one kind since the last call, and forget all others of it."""
        found = [effect for effect in self.out if isinstance(effect, kind)]
        self.out = [effect for effect in self.out if not isinstance(effect, kind)]
        return found

    def sent(self) -> list[str]:
        """What was said to participants, in short: `a.prepares`, `b.COMMIT`."""
        return [_short(effect) for effect in self.take(effects.Send)]

    def answers(self) -> list[client_pb2.Answer]:
        """What clients were answered."""
        return [effect.answer for effect in self.take(effects.Answered)]

    def outcomes(self) -> list[str]:
        """What clients were answered, in short."""
        return [_outcome(answer) for answer in self.answers()]

    def got(self) -> list[str]:
        """What questions were answered, in short."""
        return [_outcome(effect.answer) for effect in self.take(effects.Got)]

    def txn(self, number: int) -> Transaction:
        """A live transaction."""
        found: Transaction = self.book.live[self.id(number)]
        return found

    def kinds(self) -> list[str]:
        """The kinds of all records."""
        return [record_pb2.CoordinatorRecord.FromString(body).WhichOneof("kind") or "" for body in self.log]


def _short(effect: effects.Send) -> str:
    message = effect.message
    if isinstance(message, participant_pb2.Decision):
        return f"{effect.participant}.{participant_pb2.DecisionKind.Name(message.kind).removeprefix('DECISION_KIND_')}"
    return f"{effect.participant}.{effect.field}"


def _outcome(answer: client_pb2.Answer) -> str:
    text = common_pb2.Outcome.Name(answer.outcome).removeprefix("OUTCOME_")
    return f"{answer.number} {text}" + (f" {answer.cause.reason}" if answer.HasField("cause") else "")


def snapshot(value: Any, seen: dict[int, int] | None = None) -> Any:
    """All that hangs on a value, as plain data that can be compared."""
    seen = {} if seen is None else seen
    if isinstance(value, Message):
        return (type(value).__name__, value.SerializeToString(deterministic=True))
    if isinstance(value, str | bytes | int | float | bool | Enum | type(None)):
        return value
    if id(value) in seen:
        return f"#{seen[id(value)]}"
    seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return [(snapshot(k, seen), snapshot(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [snapshot(item, seen) for item in value]
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())] or getattr(value, "__dict__", ())
    if not names:
        return repr(value)  # a repeated field of a message
    return (type(value).__name__, [(name, snapshot(getattr(value, name), seen)) for name in names])
