"""The coordinator's core: events in, `Ready` out (see `troth.ready`).

This file only directs: `transitions` moves transactions, `requests` hears clients, `hello` and `arrivals` hear participants,
`operator` hears operators, `finishing` ends and retains, `recovery` reads the log back. Nothing of an epoch is said before its
EpochStarted record is durable: until then events wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from coordinator.core import (
    arrivals,
    beginning,
    effects,
    events,
    finishing,
    forgetting,
    hearing,
    hello,
    operator,
    owners,
    phase_two,
    recalling,
    recovery,
    requests,
    waiting,
)
from coordinator.core.book import Book
from coordinator.core.fill import fill
from coordinator.core.model import Beginning, Counters, Session, Transaction
from coordinator.core.settings import CoreSettings
from coordinator.core.steps import broke_protocol
from coordinator.core.transitions import DECIDED, Input, apply
from troth.errors import LocalProtocolError, Reason, RemoteProtocolError
from troth.lives import Life
from troth.ready import Event, Instant, Opened, Ready
from troth.v1 import participant_pb2, record_pb2

HOUSEKEEPING = "housekeeping"


class CoordinatorCore:
    """One coordinator's core.

    `nonce` is 8 to 32 hexadecimal digits, and `secret` `troth.seals.SECRET_BYTES`, both drawn at random for each start. Without a
    secret no early vote is taken.
    """

    def __init__(self, settings: CoreSettings, coordinator: str, nonce: str, secret: bytes = b"") -> None:
        self._book = Book(settings, coordinator, nonce, secret)
        self.unary_session = ""
        """The session of unary calls; known after `recover`."""

    # ---- what the engine uses

    def recover(self, records: Sequence[bytes], now: Instant, opened: Opened) -> Sequence[str]:
        """Rebuild the state; the next epoch begins when those were heard who may know better."""
        book = self._book
        owners = recovery.recover(book, records, now)
        book.lives.log_id, book.keys_unreadable = opened.log_id, opened.unreadable
        book.epoch = max(book.epoch, hearing.highest_heard(book)) + 1
        hearing.start(book, Life(book.epoch, book.nonce, opened.position))
        self._name_session()
        book.timers.set(HOUSEKEEPING, now.monotonic + book.settings.watermark_interval_seconds)
        return owners

    def _name_session(self) -> None:
        """The epoch is in the name; until a life has begun it may rise."""
        book = self._book
        self.unary_session = f"{book.coordinator}.{book.epoch}.{book.nonce}.0"
        if self.unary_session not in book.sessions:
            book.sessions[self.unary_session] = Session(self.unary_session, keeps_answers=False)

    def use(self, settings: CoreSettings) -> None:
        """Have other limits and times from now on, between two steps. Each is looked at when it is needed, and nothing that is
        kept depends on an older one: what is above a lower limit stays, and nothing is added. `coordinator.reloading` names those
        of which this is so."""
        self._book.settings = settings

    def step(self, event: Event, now: Instant) -> None:
        """Take one event; see `coordinator.core.events`."""
        book = self._book
        if now is not book.now:
            book.read_clocks(now)
        if not book.serving and not isinstance(event, events.Durable):
            self._wait(event)
            return
        _HANDLERS[type(event)](book, event)
        if book.beginning is Beginning.REFUSED:
            self._name_session()
        if book.again:
            self._again()

    def _wait(self, event: Event) -> None:
        """Let an event wait until the epoch is durable. Before it has begun, Hello is looked at: it may not begin at all."""
        book = self._book
        book.again.append(event)
        if book.beginning is Beginning.HEARING:
            if isinstance(event, events.HelloReceived):
                hello.why_refused(book, event)
                hearing.heard(book, event.participant)
                self._name_session()  # what came under another name is refused under it
            elif len(book.again) > hearing.WAITING_EVENTS_MAX:
                hearing.begin(book)
            self._again()

    def _again(self) -> None:
        book = self._book
        while book.again and book.serving:
            event = book.again.popleft()
            try:
                _HANDLERS[type(event)](book, event)
            except RemoteProtocolError as error:
                # It is not of the event that is at hand, nor of a tick, which nobody may refuse.
                _refuse(book, event, error)

    def tick(self, now: Instant) -> None:
        """Carry out what is due."""
        book = self._book
        book.read_clocks(now)
        for name in book.timers.pop_due(now.monotonic):
            txn = book.live.get(name)
            if txn is not None:
                apply(book, txn, Input.TIMER)
            elif name == HOUSEKEEPING:
                self._keep_house()
            elif name == hearing.HEARING_TIMER:
                hearing.begin(book)
            elif name.startswith(requests.SESSION_TIMER):
                requests.end_session(book, name.removeprefix(requests.SESSION_TIMER))
            # Otherwise another timer of the same tick has ended the transaction.
        self._again()

    def deadline(self) -> float | None:
        """When `tick` is due."""
        return self._book.timers.deadline()

    def take_ready(self) -> Ready:
        """What the core wants, once."""
        ready = self._book.ready
        self._book.ready = Ready()
        return ready

    def live_records(self, owner: str) -> Sequence[Message]:
        """What the log must still hold about an owner."""
        return recovery.live_records(self._book, owner)

    def live_owners(self) -> int:
        """How many owners have live records, at most."""
        book = self._book
        participants = len(book.participants) + len(book.gone)
        return len(book.live) + book.recorded + participants + len(book.losses) + len(book.lives) + len(book.reviews) + 1

    # ---- what the shell may look at

    @property
    def epoch(self) -> int:
        """The present epoch; known after `recover`."""
        return self._book.epoch

    @property
    def log_id(self) -> str:
        """The identity of the log; known after `recover`."""
        return self._book.lives.log_id

    @property
    def has_lost(self) -> bool:
        """Whether the log has lost what participants have heard, and no operator has accepted that."""
        return self._book.has_lost

    @property
    def counters(self) -> Counters:
        """What was done since the start."""
        return self._book.counters

    @property
    def is_draining(self) -> bool:
        """Whether new transactions are refused."""
        return self._book.draining

    @property
    def now_ms(self) -> int:
        """The durable clock as of the last step."""
        return self._book.clock_ms

    def owner_of(self, transaction_id: str) -> str | None:
        """Who began a transaction; `None` when it is not known here."""
        return owners.owner_of(self._book, transaction_id)

    def reviews(self) -> Sequence[record_pb2.Review]:
        """Orders that wait for a second person, and have not expired."""
        return waiting.not_expired(self._book)

    def invite_by(self, invites: Callable[[str, str], bool]) -> None:
        """Have somebody say whether an identity may have a participant work; everybody may otherwise."""
        self._book.invites = invites

    def undecided(self) -> int:
        """Transactions that a drain waits for."""
        return operator.undecided(self._book)

    def fill(self) -> dict[str, int]:
        """How much of each limit is in use, by the setting's name."""
        return fill(self._book)

    def open_transactions(self) -> int:
        """Transactions that are not finished."""
        return len(self._book.live)

    # ---- housekeeping

    def _keep_house(self) -> None:
        """Once an interval: let participants forget, and drop what the retention has passed."""
        book = self._book
        book.timers.set(HOUSEKEEPING, book.now.monotonic + book.settings.watermark_interval_seconds)
        if book.beginning is not Beginning.BEGUN:
            return
        waiting.expire(book)
        forgetting.expire(book)
        for participant in book.participants.values():
            below = participant.watermark()
            if participant.questions:
                arrivals.ask(book, participant)
            elif participant.recalling:
                if participant.ready:
                    recalling.go_on(book, participant)
            elif participant.recall_unsaid:
                continue
            elif book.may_forget and participant.ready and not participant.recovered and below > participant.watermark_sent:
                participant.watermark_sent = below
                watermark = participant_pb2.Watermark(epoch=book.epoch, below=below)
                book.ready.effects.append(effects.SendWatermark(participant.name, participant.stream, watermark))
        finishing.evict(book)


def _refuse(book: Book, event: Any, error: RemoteProtocolError) -> None:
    """What a participant said, and had to wait, breaks a rule: that ends its stream. What there is no room for it says again with
    its next Hello. (Nobody else breaks rules here, and of a stream that has ended nothing is heard.)"""
    if error.reason is Reason.OVERLOADED:
        book.counters.reports_refused += 1
    else:
        broke_protocol(book, book.participants[event.participant], error.message)


# ---- what is durable


def _durable(book: Book, event: events.Durable) -> None:
    """An append of ours is durable."""
    _DURABLE[event.what](book, event)


def _serve(book: Book, event: events.Durable) -> None:
    book.serving = True


def _ended(book: Book, event: events.Durable) -> None:
    book.end_branches(event.detail)


def _narrowed(book: Book, event: events.Durable) -> None:
    phase_two.narrowed(book, *event.detail)


def _bound(book: Book, event: events.Durable) -> None:
    hello.bound(book, event.subject, *event.detail)


def _recalled(book: Book, event: events.Durable) -> None:
    recalling.ended(book, event.subject)


def _evicted(book: Book, event: events.Durable) -> None:
    finishing.evicted(book, event.detail)


def _forgotten(book: Book, event: events.Durable) -> None:
    txn = book.live.get(event.subject)
    ordered, record = event.detail
    if txn is not None and txn is ordered:  # and not what a participant has contradicted since, of an order that was given twice
        operator.forgotten(book, txn, record)


def _ordered(book: Book, event: events.Durable) -> None:
    if event.detail is not None:
        _durable(book, event.detail)
    operator.ordered(book)


def _heuristic(book: Book, event: events.Durable) -> None:
    txn = book.live.get(event.subject)
    if txn is not None:
        phase_two.heuristic_durable(book, txn, event.detail)
    else:
        phase_two.reported_after_all(book, event.detail)


def _decided(book: Book, event: events.Durable) -> None:
    apply(book, _transaction(book, event), DECIDED)


def _recorded(book: Book, event: events.Durable) -> None:
    apply(book, _transaction(book, event), Input.RECORDED)


def _opened(book: Book, event: events.Durable) -> None:
    apply(book, _transaction(book, event), Input.OPENED)


def _transaction(book: Book, event: events.Durable) -> Transaction:
    txn = book.live.get(event.subject)
    if txn is None:
        raise LocalProtocolError(f"{event.what} is durable for {event.subject}, which is not live")
    return txn


_DURABLE: dict[str, Callable[[Book, events.Durable], None]] = {
    "epoch": _serve,
    "decided": _decided,
    "recorded": _recorded,
    "narrowed": _narrowed,
    "opened": _opened,
    "ended": _ended,
    "bound": _bound,
    "heuristic": _heuristic,
    "forgotten": _forgotten,
    "horizon": _evicted,
    "recalled": _recalled,
    "ordered": _ordered,
}


# ---- watching


def _watch(book: Book, event: events.Watch) -> None:
    txn = book.live.get(event.transaction_id)
    if txn is not None:
        book.watch(event.ticket, txn)
        return
    response = operator.watch_finished(book, event.transaction_id)
    book.ready.effects.append(effects.Watched(event.ticket, response, last=True))


def _unwatch(book: Book, event: events.Unwatch) -> None:
    book.unwatch(event.ticket, event.transaction_id)


_HANDLERS: dict[type, Callable[[Book, Any], None]] = {
    events.SessionOpened: requests.open_session,
    events.SessionLost: requests.lose_session,
    events.AnswersSeen: requests.see_answers,
    events.Run: requests.run,
    events.Begin: beginning.begin,
    events.Commit: requests.commit,
    events.Abort: requests.abort_request,
    events.Get: requests.get,
    events.Watch: _watch,
    events.Unwatch: _unwatch,
    events.HelloReceived: hello.hello,
    events.ReportsReceived: arrivals.reports,
    events.ParticipantLost: hello.lost,
    events.FromParticipant: arrivals.message,
    events.Administer: operator.administer,
    events.Durable: _durable,
}
