"""Known-bad changes to the engine, the link, the log's cleaner, the shells and the client. The checkers must catch every one.

What the cores can do wrong is in `tests.sim.mutants`; these are changes around them. Two changes that were tried are not here,
because they break no promise: events of durable records that wait behind the inbox come later and do no harm (every wait is a
state of its own), and branches that Hello lists after the end of its list are asked about by their participant.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from coordinator.core import core as coordinator_core
from coordinator.core import hello
from coordinator.core.events import FromParticipant
from coordinator.core.model import VOTE_OWED, State
from coordinator.core.transitions import TABLE, Input
from coordinator.services import sessions
from coordinator.services.participants import Participants
from coordinator.services.sessions import Sessions
from participant_sdk.client import client as client_module
from participant_sdk.client.exchange import Lost
from participant_sdk.client.session import Session as ClientSession
from participant_sdk.client.transaction import Transaction
from participant_sdk.identity import IdentityLog
from participant_sdk.resources import log_only
from participant_sdk.resources.log_only import LogResource
from participant_sdk.runtime import Runtime
from tests.sim.mutant import Mutant, adder
from troth.backoff import Backoff
from troth.engine import Engine
from troth.errors import Aborted, OutcomeUnknown, Reason
from troth.link import Outbox
from troth.log.cleaner import Cleaner
from troth.log.memory import MemoryLog

MUTANTS: list[Mutant] = []

_mutant = adder(MUTANTS)


def _nothing(original: Any) -> Any:
    return lambda *arguments, **options: None


# ---- the engine


def _effects_first(original: Any) -> Any:
    async def write(self: Any, copies: Any, batch: Any, drop_below: int) -> None:
        for append in batch:
            for effect in append.effects:
                self._perform(effect)
        await original(self, copies, [replace(append, effects=()) for append in batch], drop_below)

    return write


def _events_first(original: Any) -> Any:
    async def write(self: Any, copies: Any, batch: Any, drop_below: int) -> None:
        self.submit_all([append.event for append in batch if append.event is not None])
        await original(self, copies, [replace(append, event=None) for append in batch], drop_below)

    return write


def _never_synced(original: Any) -> Any:
    async def write(self: Any, batch: Any, *, sync: bool, drop_below: int = 0) -> Any:
        return await original(self, batch, sync=False, drop_below=drop_below)

    return write


def _released_though_failed(original: Any) -> Any:
    async def write(self: Any, batch: Any, *, sync: bool, drop_below: int = 0) -> Any:
        try:
            return await original(self, batch, sync=sync, drop_below=drop_below)
        except Exception:
            self._state = "open"
            return type("Written", (), {"seqs": [1] * len(batch), "events": [None] * len(batch)})

    return write


def _dropped_while_writing(original: Any) -> Any:
    def submit(self: Any, event: Any) -> None:
        if self._writing is None:
            original(self, event)

    return submit


def _frame_dropped_while_writing(original: Any) -> Any:
    def submit_all(self: Any, events: Any) -> None:
        if self._writing is None or len(events) != 1:
            original(self, events)

    return submit_all


def _cancels_the_writer(original: Any) -> Any:
    async def ask(self: Any, make_event: Any) -> Any:
        try:
            return await original(self, make_event)
        except asyncio.CancelledError:
            if self._engine._writing is not None:
                self._engine._writing.cancel()
            raise

    return ask


def _last_lost(original: Any) -> Any:
    def take(self: Any, *, all_of_it: bool) -> Any:
        batch = original(self, all_of_it=all_of_it)
        return batch[:-1] if len(batch) > 1 else batch

    return take


def _only_forced(original: Any) -> Any:
    def start_write(self: Any, now: Any) -> None:
        if self._urgent_queued or self._closing is not None:
            original(self, now)

    return start_write


def _no_linger_while_writing(original: Any) -> Any:
    def enqueue(self: Any, appends: Any, now: Any) -> None:
        before = self._lingers_until
        original(self, appends, now)
        if self._writing is not None:
            self._lingers_until = before

    return enqueue


_mutant("effects happen before the record is durable", "1", (Engine, "_write", _effects_first))
_mutant("a record's event happens before it is durable", "1", (Engine, "_write", _events_first))
_mutant("nothing is ever synced", "1", (MemoryLog, "write", _never_synced))
_mutant("a failed log is ignored: what was to be written is dropped", "17", (Engine, "_fail", _nothing))
_mutant("a failed write is taken for a success", "17", (MemoryLog, "write", _released_though_failed))
_mutant(
    "an event that arrives during a write is dropped", "13",
    (Engine, "submit", _dropped_while_writing), (Engine, "submit_all", _frame_dropped_while_writing),
)  # fmt: skip
_mutant("a caller that is cancelled cancels the writer", "15", (Runtime, "ask", _cancels_the_writer))
_mutant("the last record of a batch is lost", "1", (Engine, "_take_batch", _last_lost))
_mutant("unforced records wait for ever for a forced one", "going on", (Engine, "_start_write", _only_forced))
_mutant(
    "an unforced record that arrives during a write never gets its linger", "going on",
    (Engine, "_enqueue", _no_linger_while_writing),
)  # fmt: skip


# ---- the link


def _drops_one(original: Any) -> Any:
    def drain(self: Any) -> Any:
        for waiting in self._fields.values():
            if len(waiting) > 1:
                self._bytes -= len(waiting.pop())
                self._items -= 1
        return original(self)

    return drain


def _drops_the_rest(original: Any) -> Any:
    def move(self: Any, field: str, room: int, parts: Any) -> Any:
        count = original(self, field, room, parts)
        for part in self._fields.pop(field, ()):
            self._bytes -= len(part)
            self._items -= 1
        return count

    return move


def _no_wake(original: Any) -> Any:
    def put(self: Any, field: str, message: Any, *, patient: bool = False) -> None:
        urgent, self._urgent = self._urgent, True  # as if the writer were awake already
        original(self, field, message, patient=patient)
        self._urgent = urgent

    return put


_mutant("a frame with several messages of a field loses the last", "the link", (Outbox, "drain", _drops_one))
_mutant("what does not fit into a frame is lost", "the link", (Outbox, "_move", _drops_the_rest))
_mutant("a message does not wake the writer", "the link", (Outbox, "put", _no_wake))


# ---- the cleaner


def _copies_nothing(original: Any) -> Any:
    def plan(self: Any) -> Any:
        _, drop_below = original(self)
        return [], drop_below

    return plan


_mutant("the cleaner drops the head without copies", "20", (Cleaner, "plan", _copies_nothing))


# ---- the client


def _not_resent(original: Any) -> Any:
    def welcomed(self: Any, welcome: Any) -> Any:
        outbox = original(self, welcome)
        outbox.clear()
        return outbox

    return welcomed


def _nothing_was_sent(original: Any) -> Any:
    def lost(self: Any, reason: Any, message: str) -> None:
        original(self, reason, message)
        for exchange in self._open.values():
            exchange.sent = False

    return lost


async def _aborted(self: Any, asked: Any, deadline: float) -> Any:
    raise Aborted(Reason.COORDINATOR_RESTARTED, "the session is gone", transaction_id=asked.transaction_id)


def _expired_as_never_sent(original: Any) -> Any:
    def expire(self: Any, exchange: Any) -> None:
        exchange.over = Reason.TIMEOUT
        self._close(exchange, Lost.DEADLINE_NEVER_SENT)

    return expire


def _numbers_again(original: Any) -> Any:
    def welcomed(self: Any, welcome: Any) -> Any:
        outbox = original(self, welcome)
        self._next_number = 1
        return outbox

    return welcomed


def _always_resumed(original: Any) -> Any:
    def welcomed(self: Any, welcome: Any) -> Any:
        self._identity.name = welcome.session
        welcome.resumed = True
        return original(self, welcome)

    return welcomed


def _no_timers(original: Any) -> Any:
    def resend(self: Any, exchange: Any) -> None:
        exchange.resends += 1
        self._arm(exchange)

    return resend


def _counts_twice(original: Any) -> Any:
    def acknowledge(self: Any, told: Any, operations: int = 1) -> None:
        original(self, told, operations)
        if sum(self._tally._done.values()) > 1:
            self._tally._done.pop((told.participant, told.incarnation), None)

    return acknowledge


def _always_commits(original: Any) -> Any:
    async def leave(self: Any, kind: Any, error: Any, traceback: Any) -> None:
        await original(self, None, None, None)

    return leave


def _retries_the_unknown(original: Any) -> Any:
    async def run(self: Any, work: Any, terms: Any) -> Any:
        try:
            return await original(self, work, terms)
        except OutcomeUnknown:
            return await original(self, work, terms)

    return run


_mutant("an exception in a transaction's block commits", "client", (Transaction, "__aexit__", _always_commits))
_mutant("what may have committed is run again", "7", (client_module.Client, "_run", _retries_the_unknown))
_mutant(
    "unanswered requests are not sent again", "15",
    (ClientSession, "welcomed", _not_resent), (ClientSession, "_resend", _no_timers),
)  # fmt: skip
_mutant(
    "answers are acknowledged before they came", "15",
    (ClientSession, "_answered_below", lambda original: lambda self: self._next_number),
)  # fmt: skip
_mutant("what was sent counts as never sent when the session is gone", "7", (ClientSession, "lost", _nothing_was_sent))
_mutant("a session that is gone is told as an abort", "7", (client_module.Client, "settle", lambda original: _aborted))
_mutant("a deadline that came is told as an abort", "7", (ClientSession, "_expire", _expired_as_never_sent))
_mutant("a session that is resumed numbers from 1 again", "15", (ClientSession, "welcomed", _numbers_again))
_mutant("a new session is taken for the old one", "15", (ClientSession, "welcomed", _always_resumed))
_mutant("an acknowledged operation is not counted", "4", (Transaction, "acknowledge", _counts_twice))


# ---- the daemon's services


def _resumed_in_silence(original: Any) -> Any:
    def open_(self: Any, name: str) -> Any:
        session, resumed = original(self, name)
        if resumed:
            session.put = lambda field, message: None
        return session, resumed

    return open_


_mutant("a resumed session is told nothing", "15", (Sessions, "_open", _resumed_in_silence))
_mutant("a participant is never welcomed again", "8", (Participants, "welcomed", _nothing))


# ---- who may


def _whoever_speaks(original: Any) -> Any:
    def message(book: Any, event: Any) -> None:
        participant = book.participants.get(event.participant)
        if participant is not None and participant.welcomed:
            event = replace(event, stream=participant.stream)
        original(book, event)

    return message


def _for_whoever_owes(original: Any) -> Any:
    """Who has no branch is taken for the next one who has."""

    def hear(book: Any, txn: Any, argument: Any) -> None:
        participant, what = argument
        owing = [branch.participant for branch in txn.branches.values() if branch.step is VOTE_OWED]
        original(book, txn, (owing[0] if participant.name not in txn.branches and owing else participant, what))

    return hear


_mutant("a session ends another one's transactions", "who may", (sessions, "_check_own", _nothing))
_mutant("whoever comes under a name is welcomed", "9, who may", (hello, "_not_its_own", _nothing))
_mutant("what is said over any stream is heard", "9, who may", (coordinator_core._HANDLERS, FromParticipant, _whoever_speaks))
_mutant("a vote counts, whoever gives it", "2, who may", (TABLE, (State.PREPARING, Input.VOTE), _for_whoever_owes))


# ---- the participant's shell


def _tried_once(original: Any) -> Any:
    async def until_done(what: str, attempt_once: Any) -> None:
        await attempt_once()

    return until_done


def _hook_behind_the_answer(original: Any) -> Any:
    def finish(self: Any, work: Any, hook: Any, answer: Any) -> None:
        self._submit(answer)
        if hook is not None:
            self._jobs.start(self._call_hook(hook, work.transaction_id, work.works))

    return finish


async def _writes_nothing(self: Any, batch: Any, drop_below: int = 0) -> None:
    """It is not durable."""


_mutant("the identity log writes nothing", "9", (IdentityLog, "_write", lambda original: _writes_nothing))
_mutant("a hook that failed is not called again", "6 (resource)", (log_only, "until_done", _tried_once))
_mutant("a branch is committed before its hook has succeeded", "6 (resource)", (LogResource, "_finish", _hook_behind_the_answer))
def _always_the_first(original: Any) -> Any:
    def delay_seconds(self: Backoff, attempt: int, what: str) -> float:
        return float(original(self, 0, what))

    return delay_seconds


_mutant("nobody backs off", "8", (Backoff, "delay_seconds", _always_the_first))
_mutant("votes and acknowledgements are lost in the runtime", "13", (Runtime, "opened", _nothing))
