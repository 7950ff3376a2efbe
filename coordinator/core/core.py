"""The coordinator's core: events in, `Ready` out (see `troth.ready`).

This file only directs: `transitions` moves transactions, `requests` hears clients, `arrivals` hears participants, `operator` hears
operators, `finishing` ends and retains, `recovery` reads the log back. Nothing of an epoch is said before its EpochStarted record
is durable: until then events wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from coordinator.core import arrivals, effects, events, finishing, operator, phase_two, recovery, requests
from coordinator.core.book import Book
from coordinator.core.model import Counters, Session
from coordinator.core.settings import CoreSettings
from coordinator.core.transitions import Input, apply
from troth.errors import LocalProtocolError
from troth.ready import Event, Instant, Ready
from troth.v1 import participant_pb2

HOUSEKEEPING = "housekeeping"


class CoordinatorCore:
    """One coordinator's core. `nonce` is 8 to 32 hexadecimal digits, drawn at random for each start."""

    def __init__(self, settings: CoreSettings, coordinator: str, nonce: str) -> None:
        self._book = Book(settings, coordinator, nonce)
        self._serving = False
        self._held: list[Event] = []

    # ---- what the engine uses

    def recover(self, records: Sequence[bytes], now: Instant) -> Sequence[str]:
        """Rebuild the state and begin the next epoch."""
        book = self._book
        owners = recovery.recover(book, records, now)
        book.epoch += 1
        started = recovery.epoch_record(book)
        book.append("epoch", force=True, event=events.Durable("epoch", "epoch"), epoch_started=started)
        book.sessions[self.unary_session] = Session(self.unary_session, keeps_answers=False)
        book.timers.set(HOUSEKEEPING, now.monotonic + book.settings.watermark_interval_seconds)
        return owners

    def step(self, event: Event, now: Instant) -> None:
        """Take one event; see `coordinator.core.events`."""
        book = self._book
        if not self._serving and not isinstance(event, events.Durable):
            self._held.append(event)
            return
        book.read_clocks(now)
        _HANDLERS[type(event)](self, event)
        while book.again:
            requests.run(book, book.again.pop(0))

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
            elif name.startswith(requests.SESSION_TIMER):
                requests.end_session(book, name.removeprefix(requests.SESSION_TIMER))
            # Otherwise another timer of the same tick has ended the transaction.

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
        return len(book.live) + book.recorded + len(book.participants) + 2

    # ---- what the shell may look at

    @property
    def epoch(self) -> int:
        """The present epoch; known after `recover`."""
        return self._book.epoch

    @property
    def unary_session(self) -> str:
        """The session of unary calls."""
        return f"{self._book.coordinator}.{self._book.epoch}.{self._book.nonce}.0"

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

    def undecided(self) -> int:
        """Transactions that a drain waits for."""
        return operator.undecided(self._book)

    def open_transactions(self) -> int:
        """Transactions that are not finished."""
        return len(self._book.live)

    # ---- events

    def _durable(self, event: events.Durable) -> None:
        """An append of ours is durable."""
        book = self._book
        if event.what == "epoch":
            self._start_serving()
        elif event.what == "ended":
            book.end_branches(event.detail)
        elif event.what == "narrowed":
            phase_two.narrowed(book, *event.detail)
        elif event.what == "bound":
            arrivals.bound(book, event.subject, event.detail)
        elif event.what == "horizon":
            finishing.evicted(book, *event.detail)
        else:
            self._transaction_durable(event)

    def _transaction_durable(self, event: events.Durable) -> None:
        txn = self._book.live.get(event.subject)
        if event.what == "forgotten":
            if txn is not None:
                operator.forgotten(self._book, txn, event.detail)
        elif txn is None:
            raise LocalProtocolError(f"{event.what} is durable for {event.subject}, which is not live")
        elif event.what == "heuristic":
            phase_two.heuristic_durable(self._book, txn, event.detail)
        else:
            apply(self._book, txn, Input(event.what))

    def _start_serving(self) -> None:
        self._serving = True
        held, self._held = self._held, []
        for event in held:
            self.step(event, self._book.now)

    def _watch(self, event: events.Watch) -> None:
        book = self._book
        txn = book.live.get(event.transaction_id)
        if txn is not None:
            txn.watchers.append(event.ticket)
            book.tell_watcher(event.ticket, txn)
            return
        response = operator.watch_finished(book, event.transaction_id)
        book.ready.effects.append(effects.Watched(event.ticket, response, last=True))

    def _unwatch(self, event: events.Unwatch) -> None:
        for txn in self._book.live.values():
            if event.ticket in txn.watchers:
                txn.watchers.remove(event.ticket)

    def _keep_house(self) -> None:
        """Once an interval: let participants forget, and drop what the retention has passed."""
        book = self._book
        book.timers.set(HOUSEKEEPING, book.now.monotonic + book.settings.watermark_interval_seconds)
        for participant in book.participants.values():
            below = participant.watermark()
            if participant.questions:
                arrivals.ask(book, participant)
            elif participant.ready and not participant.recovered and below > participant.watermark_sent:
                participant.watermark_sent = below
                watermark = participant_pb2.Watermark(epoch=book.epoch, below=below)
                book.ready.effects.append(effects.SendWatermark(participant.name, participant.stream, watermark))
        finishing.evict(book)


def _with_book(handler: Callable[[Book, Any], None]) -> Callable[[CoordinatorCore, Any], None]:
    return lambda core, event: handler(core._book, event)


_HANDLERS: dict[type, Callable[[CoordinatorCore, Any], None]] = {
    events.SessionOpened: _with_book(requests.open_session),
    events.SessionLost: _with_book(requests.lose_session),
    events.AnswersSeen: _with_book(requests.see_answers),
    events.Run: _with_book(requests.run),
    events.Begin: _with_book(requests.begin),
    events.Commit: _with_book(requests.commit),
    events.Abort: _with_book(requests.abort_request),
    events.Get: _with_book(requests.get),
    events.Watch: CoordinatorCore._watch,
    events.Unwatch: CoordinatorCore._unwatch,
    events.HelloReceived: _with_book(arrivals.hello),
    events.ReportsReceived: _with_book(arrivals.reports),
    events.ParticipantLost: _with_book(arrivals.lost),
    events.FromParticipant: _with_book(arrivals.message),
    events.Administer: _with_book(operator.administer),
    events.Durable: CoordinatorCore._durable,
}
