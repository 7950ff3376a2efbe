"""Known-bad changes that operators, ages, limits, stale epochs and failing disks bring to light; and some for each checker of
prices, bounds and prefixes. `tests.sim.mutants` has the others, and the list of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from coordinator.core import arrivals, beginning, checks, finishing, hello, late, model, phase_two, recovery, requests, steps
from coordinator.core import core as coordinator_core
from coordinator.core.book import Book
from coordinator.core.model import State, Transaction
from coordinator.core.transitions import TABLE as C
from coordinator.core.transitions import Input
from participant_sdk.core import core as participant_core
from participant_sdk.core import finishing as f
from participant_sdk.core import machine, records, voting
from participant_sdk.core import recovery as participant_recovery
from participant_sdk.core.branches import Forced, Kind
from participant_sdk.core.branches import State as P
from participant_sdk.core.transitions import TABLE as T
from tests.sim import disk, roles
from tests.sim.mutant import SCRIPTED, Mutant, adder, nothing, to
from troth.errors import Reason, RemoteProtocolError
from troth.log import cleaner
from troth.ready import Append, Event
from troth.v1 import common_pb2, participant_pb2

MORE: list[Mutant] = []

_mutant = adder(MORE)

_scripted = adder(SCRIPTED)


# ---- rule 5: what is below the watermark


def _any_stream(original: Any) -> Any:
    def take(self: Any, event: Any) -> None:
        original(self, replace(event, stream=self._m.sessions.newest))

    return take


_mutant(
    "a branch below the watermark is taken for one never seen, and frames of a superseded stream are taken", "5",
    (machine.Machine, "expired", to(lambda self, branch: False)),
    (participant_core.ParticipantCore, "_prepare_received", _any_stream),
)  # fmt: skip
_mutant(
    "a branch that was rolled back votes YES on late work", "5",
    (T[P.ABORTED], Kind.PREPARE, to(lambda m, b, e: m.vote(b, participant_pb2.VOTE_KIND_YES))),
)  # fmt: skip

# ---- what people are told later


def _all_well(original: Any) -> Any:
    def tell(book: Book, txn: Transaction, heuristic: str = "") -> None:
        original(book, txn, heuristic)
        if txn.state is State.ABORTED:
            book.ready.effects[-1].outcome = common_pb2.OUTCOME_COMMITTED

    return tell


_mutant("what aborted is remembered as committed", "history", (finishing, "tell_over", _all_well))
_mutant("what is over is not remembered", "history", (finishing, "tell_over", to(nothing)))

# ---- rule 9: epochs


def _forgets_epochs(original: Any) -> Any:
    def connected(self: Any, event: Any) -> None:
        self._m.coordinators._seen.pop(event.coordinator, None)
        original(self, event)

    return connected


def _follows_all(original: Any) -> Any:
    def follows(self: Any, welcome: participant_pb2.Welcome, position: int) -> bool:
        with suppress(RemoteProtocolError):  # what was seen is still kept: by that it is led to the stale one
            original(self, welcome, position)
        return True

    return follows


_mutant(
    "a coordinator with a stale epoch is believed", "9",
    (roles.ParticipantProcess, "follows", _follows_all),
    (participant_core.ParticipantCore, "_connected", _forgets_epochs),
    (hello, "_knows_better", to(nothing)),  # the copy would find out by itself that it is one
)  # fmt: skip
_mutant("the epoch is not read back from the log", "9", (recovery._READERS, "epoch_started", to(lambda self, record, at: "epoch")))
_mutant("a log is opened although another process has it", "9", (disk.Disk, "lock", to(nothing)))

# ---- rule 12: ages


def _kept_shorter(original: Any) -> Any:
    """Neither for the skew that is allowed nor for the first attempt of a client whose clock was ahead: either one is enough."""

    def over(b: Book) -> Any:
        oldest_ms = b.clock_ms - b.settings.retention_seconds * 1000
        names = original(b)
        return [*names, *(name for name in b.keyed_commits if name not in names and b.finished[name].at_ms < oldest_ms)]

    return over


_mutant("what is older than the retention is run again", "12", (checks, "_check_age", to(nothing)))
_mutant("what comes from the future is run", "12", (checks, "check_skew", to(nothing)), (requests, "check_skew", to(nothing)))
# The horizon of the keys refuses what would run again: the retry hears EXPIRED instead of its answer.
_scripted("a key is kept no longer than the retention", "12", (finishing, "_over", _kept_shorter))

# ---- rule 16: shedding


_mutant("nothing is shed", "16", (requests, "check_room", to(nothing)))
_mutant("a client may leave answers unacknowledged without end", "16", (model.Session, "has_room", to(lambda self, most: True)))
_mutant("a participant takes branches without end", "16", (machine.Machine, "refuses_new", to(lambda self: None)))

# ---- rule 17: a log that failed


def _failure_overlooked(original: Any) -> Any:
    def write(self: disk.Disk, batch: Sequence[Append], *, sync: bool, drop_below: int) -> tuple[list[int], list[Event | None]]:
        failed, self.failing = self.failing, ""
        written: tuple[list[int], list[Event | None]] = original(self, batch, sync=sync and not failed, drop_below=drop_below)
        return written

    return write


_mutant("a sync that failed is taken for one that succeeded", "17", (disk.Disk, "write", _failure_overlooked))

# ---- rule 18: heuristic outcomes


def _agreed(b: Book, txn: Transaction) -> None:
    txn.missing -= 1
    if txn.missing == 0:
        finishing.finish(b, txn, State.COMMITTED)


def _unsigned(original: Any) -> Any:
    def finished(branch: Any, outcome: Any) -> Any:
        record = original(branch, outcome)
        record.branch_finished.who = record.branch_finished.why = ""
        return record

    return finished


_mutant("a forced rollback is acknowledged as a commit", "18", (T[P.FORCED_ABORT], Kind.COMMIT, to(f.acknowledge_again)))
_mutant("an operator's order has no author", "18", (f, "Forced", to(lambda who, why, at: Forced("", "", 0))))
_mutant("a participant's log does not say who forced it", "18", (records, "finished", _unsigned))
_mutant("recovery forgets heuristic outcomes", "18", (recovery._READERS, "heuristic", to(lambda self, r, at: r.transaction_id)))
_mutant("a heuristic outcome forgets itself", "18", (phase_two, "count_acknowledgement", to(_agreed)))
_mutant("a second contradiction is taken for a repeat", "18", (C, (State.HEURISTIC, Input.ACKNOWLEDGED), to(steps.late)))
_mutant("whoever is in doubt beside a contradiction is told nothing", "18", (arrivals, "tell_decision", to(nothing)))
_mutant("a settlement takes a forced commit for the commit", "18", (T[P.FORCED_COMMIT], Kind.SETTLE, to(f.settle_committed)))
_mutant("a contradiction of what is over is dropped", "18", (late, "late_heuristic", to(nothing)))

# ---- rule 9: who speaks


def _at_once(b: Book, event: Any) -> None:
    _hello(b, event)
    participant = b.participants[event.participant]
    if participant.stream == event.stream and not participant.welcomed:
        hello._welcome(b, participant)


_hello = hello.hello
_mutant(
    "a participant is welcomed before its binding is durable", "9",
    (coordinator_core._HANDLERS, hello.events.HelloReceived, to(_at_once)),
)  # fmt: skip

# ---- AC4: without faults it commits


def _moody(original: Any) -> Any:
    def run_prepare(m: Any, b: Any) -> None:
        if b.transaction_id.endswith("2"):
            voting.vote_no(m, b, m.cause(Reason.CONFLICT, "mutant"))
        else:
            original(m, b)

    return run_prepare


def _hasty(original: Any) -> Any:
    def create(*arguments: Any) -> Transaction:
        txn: Transaction = original(*arguments)
        txn.deadline = txn.began + (txn.deadline - txn.began) / 5000
        return txn

    return create


_mutant("a participant says NO for no reason", "AC4", (voting, "run_prepare", _moody))
_mutant("a timeout is far too short", "AC4", (beginning, "create", _hasty), (requests, "create", _hasty))

# ---- prices


def _said_twice(original: Any) -> Any:
    def vote(self: Any, branch: Any, kind: Any, cause: Any = None) -> None:
        original(self, branch, kind, cause)
        original(self, branch, kind, cause)

    return vote


def _read_only_stays(original: Any) -> Any:
    def vote(b: Book, txn: Transaction, argument: Any) -> None:
        participant, message = argument
        if message.kind == participant_pb2.VOTE_KIND_READ_ONLY:
            message = participant_pb2.Vote(transaction_id=txn.id, kind=participant_pb2.VOTE_KIND_YES)
        original(b, txn, (participant, message))

    return vote


def _always_forced(original: Any) -> Any:
    def append(self: Book, owner: str, record: Any, *, force: bool, event: Any = None, patient: bool = False) -> None:
        original(self, owner, record, force=True, event=event)

    return append


_mutant("a vote is said twice", "price", (machine.Machine, "vote", _said_twice))
_mutant("a read-only branch stays for phase two", "price", (C, (State.PREPARING, Input.VOTE), _read_only_stays))
_mutant("every record of the coordinator is forced", "price", (Book, "append", _always_forced))

# ---- bounds

_mutant("the log is never cleaned", "bounds", (cleaner.Cleaner, "plan", to(lambda self: ([], 0))))
_mutant("finished branches are never forgotten", "19, bounds", (machine.Machine, "forget_finished", to(nothing)))
_mutant("finished transactions are never dropped", "12, bounds", (finishing, "evict", to(nothing)))
_mutant(
    "answers are kept although the client has them", "15, bounds",
    (requests, "see_answers", to(nothing)),
    (coordinator_core._HANDLERS, requests.events.AnswersSeen, to(nothing)),
)  # fmt: skip

# ---- prefixes


def _last_overlooked(original: Any) -> Any:
    def recover(whose: Any, bodies: Sequence[bytes], *now: Any) -> list[str]:
        return [*original(whose, bodies[:-1], *now), *[""] * bool(bodies)]

    return recover


_mutant("a participant overlooks the last record of its log", "1, prefix", (participant_recovery, "recover", _last_overlooked))
_mutant("the coordinator overlooks the last record of its log", "1, prefix", (recovery, "recover", _last_overlooked))


class _Gullible(disk.Disk):
    """Believes what was torn."""

    def is_whole(self, batch: disk.Batch) -> bool:
        """Any batch will do."""
        return True


_mutant("a torn batch is believed as far as it goes", "17", (disk.Disk, "is_whole", to(_Gullible.is_whole)))
