"""What the transitions work with: the memory of the core, and the few things that they can do to the world."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from participant_sdk.core import work as asked
from participant_sdk.core.branches import FINISHED, Branch, CallEntry, Calls, Config, Kind, State
from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.effects import LocalReply, Reply, Send
from participant_sdk.core.events import Durable
from participant_sdk.core.found import Found
from participant_sdk.core.local import LocalEntry, Turns
from participant_sdk.core.locks import LockTable, Rank
from participant_sdk.core.sessions import Sessions
from participant_sdk.core.starts import Starts
from participant_sdk.core.work import ResourceKind
from troth.errors import Reason
from troth.ready import Append, Event, Instant, Ready
from troth.timers import Timers
from troth.v1 import common_pb2, participant_pb2, record_pb2

_UNSEEN, _COMMITTED = State.UNSEEN, State.COMMITTED

NEVER_LEARNT = 1 << 64
"""Stands for the order of a finished branch whose order was never learnt: only a newer epoch covers it."""


NAMELESS = ""
"""The coordinator of a watermark that software kept which knew one coordinator only."""


@dataclass(slots=True)
class Watermark:
    """What one coordinator lets this participant forget, as (epoch, below)."""

    durable: tuple[int, int] = (0, 0)
    asked: tuple[int, int] = (0, 0)
    in_flight: tuple[int, int] | None = None
    finished: list[tuple[int, int, str]] = field(default_factory=list)
    """(epoch, order, transaction) of what it may cover, sorted."""


def sequence_of(transaction_id: str) -> str:
    """The life of the coordinator that began a transaction: the first three parts of its id."""
    return transaction_id.rsplit(".", 2)[0]


class Machine:
    """State and primitives; it decides nothing."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.atomic = config.resource is ResourceKind.ATOMIC
        self.external = config.resource is ResourceKind.EXTERNAL
        self.now = Instant(0.0, 0)
        self.orders: dict[str, record_pb2.ForceOrdered] = {}
        """Orders that recovery has read and not carried out yet."""
        self.incarnation = 0
        """Of this process; before `Start`, the highest one in the log."""
        self.starts = Starts()
        self.started_record: record_pb2.IncarnationStarted | None = None
        """The newest one that the log has, or is about to have, with `Config.keeps_identity`."""
        self.nonce = ""
        """What the process of this incarnation drew at random."""
        self.incarnation_asked = 0
        """The one that `Start` asked for, or 0."""
        self.started = False
        self.stopping = False
        self.sessions = Sessions()
        self.coordinator = ""
        """Whose message is being handled, or was last."""
        self.coordinators = Coordinators()
        self.told = self.coordinators.told
        """How far each coordinator was heard."""
        self.opened_at = 0
        """The position of the log when this process opened it."""
        self.watermarks: dict[str, Watermark] = {}
        """Of each coordinator; one that earlier software kept for all is found under no name."""
        self.overtaken: set[str] = set()
        """Coordinators of branches that have finished behind a watermark that covers them: no other watermark need follow."""
        self.branches: dict[str, Branch] = {}
        self.unfinished = 0
        self.live = 0
        """Branches with live records."""
        self.recovering: set[str] = set()
        """Branches of an earlier incarnation that are being undone."""
        self.remembers_votes = True
        """Whether every vote of this incarnation is remembered that no watermark covers."""
        self.refused: deque[str] = deque()
        self.locks = LockTable(config.lock_waiters_max)
        self.undeclared: dict[str, None] = {}
        """Operations without lock keys of which was told that somebody waited."""
        self.undeclared_known = False
        """Whether any work came without lock keys."""
        self.found = Found(config.found_max, config.found_bytes_max)
        self.last_begun: dict[str, tuple[str, int]] = {}
        """Of each coordinator the sequence of one-shot work that runs now (see `locks`), and the highest order in it."""
        self._begin_to_work()

    def _begin_to_work(self) -> None:
        """What no record says, and each incarnation begins with anew."""
        self.timers: Timers[tuple[str, Any]] = Timers()
        self.calls_bytes = 0
        """Bytes that the calls of all interactive branches hold; see `line`."""
        self.call_tickets: dict[Any, tuple[Branch, CallEntry]] = {}
        self.local: dict[Any, LocalEntry] = {}
        """Local work by ticket, waiting or running."""
        self.turns = Turns()
        self.ready = Ready()
        self.granted: deque[Any] = deque()
        """Lock owners that have to be told."""
        self.rerun: deque[Branch] = deque()
        """Branches whose deferred events can be taken now."""

    # ---- the world

    def stream_of(self, branch: Branch) -> int:
        """The session with a branch's coordinator, or 0."""
        return self.sessions.stream_of(branch.coordinator)

    def send(self, branch: Branch, field: str, message: Message) -> None:
        """Speak to a branch's coordinator; without a session it is not said, and the next session's reports settle it."""
        stream = self.sessions.stream_of(branch.coordinator)
        if stream:
            self.ready.effects.append(Send(stream, field, message))

    def append(
        self, record: record_pb2.ParticipantRecord, branch: Branch, step: str = "",
        *, force: bool = True, apply: Any = None, patient: bool = False,
    ) -> None:  # fmt: skip
        """Write a record of a branch; the core hears `Durable(step)` when it is durable."""
        event = Durable(branch.transaction_id, step) if step else None
        record.heard = self.told.get(branch.coordinator, 0)
        self.ready.appends.append(Append(record, branch.transaction_id, force, (), event, apply, patient))

    def invoke(self, work: Any) -> None:
        """Ask a resource that is not ATOMIC for work."""
        self.ready.effects.append(work)

    def cause(self, reason: Reason, message: str) -> common_pb2.Cause:
        """A cause in this participant's name."""
        return common_pb2.Cause(
            reason=reason.name, participant=self.config.participant, message=message, retryable=reason.retryable
        )

    def vote(self, branch: Branch, kind: participant_pb2.VoteKind.ValueType, cause: common_pb2.Cause | None = None) -> None:
        """Vote."""
        stream = self.sessions.stream_of(branch.coordinator)
        if stream:
            vote = participant_pb2.Vote()
            vote.transaction_id, vote.kind, vote.results = branch.transaction_id, kind, branch.results
            vote.order = branch.order
            if cause is not None:
                vote.cause.CopyFrom(cause)
            self.ready.effects.append(Send(stream, "votes", vote))

    def acknowledge(
        self, branch: Branch, kind: participant_pb2.AcknowledgementKind.ValueType, detail: str = "", *, patient: bool = False
    ) -> None:
        """Acknowledge a decision or an operator's order."""
        stream = self.sessions.stream_of(branch.coordinator)
        if stream:
            acknowledgement = participant_pb2.Acknowledgement()
            acknowledgement.transaction_id, acknowledgement.kind = branch.transaction_id, kind
            if detail:
                acknowledgement.detail = detail
            self.ready.effects.append(Send(stream, "acknowledgements", acknowledgement, patient))

    def settle(self, branch: Branch, kind: participant_pb2.SettlementKind.ValueType) -> None:
        """Answer RollbackIfUnseen."""
        rolled_back = kind == participant_pb2.SETTLEMENT_KIND_ROLLED_BACK
        results = b"" if rolled_back else branch.results
        self.send(
            branch, "settlements",
            participant_pb2.Settlement(
                transaction_id=branch.transaction_id, kind=kind, results=results, proves_abort=rolled_back and branch.proves_abort
            ),
        )

    def reply(
        self,
        tickets: Iterable[Any],
        *,
        result: common_pb2.Value | None = None,
        cause: common_pb2.Cause | None = None,
    ) -> None:
        """Answer everybody who waits for a call."""
        for ticket in tickets:
            self.call_tickets.pop(ticket, None)
            self.ready.effects.append(Reply(ticket, result, cause))

    def local_reply(self, ticket: Any, cause: common_pb2.Cause) -> None:
        """Say that local work did not run."""
        self.ready.effects.append(LocalReply(ticket, cause=cause))

    # ---- branches

    def refuses_new(self) -> common_pb2.Cause | None:
        """Why no new branch can be taken, if so."""
        config = self.config
        if self.stopping:
            return self.cause(Reason.SHUTTING_DOWN, "the participant is going down")
        if self.unfinished >= config.open_branches_max:
            return self.cause(Reason.OVERLOADED, f"open_branches_max is {config.open_branches_max}")
        if len(self.branches) - self.unfinished >= config.tombstones_max:
            return self.cause(Reason.OVERLOADED, f"tombstones_max is {config.tombstones_max}")
        return None

    def adopt(self, branch: Branch) -> None:
        """Remember a branch that was UNSEEN."""
        assert branch.state is _UNSEEN and branch.transaction_id not in self.branches
        self.branches[branch.transaction_id] = branch
        self.unfinished += 1

    def hold_bytes(self, calls: Calls, more: int) -> None:
        """A branch holds so many bytes more for its calls, or fewer."""
        calls.bytes += more
        self.calls_bytes += more

    def drop(self, branch: Branch) -> None:
        """Forget a branch of which nothing was ever promised."""
        del self.branches[branch.transaction_id]
        self.unfinished -= 1
        self.let_go(branch)
        assert branch.calls is not None, "only a branch of calls is not accepted"
        self.calls_bytes -= branch.calls.bytes
        branch.state = State.UNSEEN

    def finish(self, branch: Branch, state: State) -> None:
        """Make a branch a tombstone: nothing but its outcome is kept."""
        assert branch.state not in FINISHED and state in FINISHED
        branch.state = state
        if self.recovering:
            self.recovering.discard(branch.transaction_id)
        branch.works = ()
        self.unfinished -= 1
        self.let_go(branch)
        if branch.calls is not None:
            self.calls_bytes -= branch.calls.bytes
        branch.calls = branch.prepare = None
        self.index(branch)
        if state is not _COMMITTED:
            if not branch.durable:
                self.unkeep(branch)
            self.refused.append(branch.transaction_id)
            self._evict()
        if branch.deferred:
            self.rerun.append(branch)

    def learn_order(self, branch: Branch, order: int) -> None:
        """Learn a branch's order, if it was not known; a tombstone can be forgotten from then on."""
        if not order or branch.order:
            return
        if branch.state in FINISHED:
            entry = (branch.epoch, NEVER_LEARNT, branch.transaction_id)
            finished = self.watermark_of(branch.coordinator).finished
            at = bisect_left(finished, entry)
            assert finished[at] == entry
            del finished[at]
        branch.order = order
        if branch.state in FINISHED:
            self.timers.cancel(("ask", branch.transaction_id))
            self.index(branch)

    def index(self, branch: Branch) -> None:
        """Let the watermark find a finished branch."""
        entry = (branch.epoch, branch.order or NEVER_LEARNT, branch.transaction_id)
        watermark = self.watermark_of(branch.coordinator)
        if watermark.finished and entry < watermark.finished[-1]:
            insort(watermark.finished, entry)
        else:  # most finish in their order
            watermark.finished.append(entry)
        if entry[:2] < watermark.asked:
            self.overtaken.add(branch.coordinator)

    def let_go(self, branch: Branch) -> None:
        """Release locks and timers."""
        transaction_id = branch.transaction_id
        self.timers.cancel(("ask", transaction_id))
        if branch.calls is not None:
            self.timers.cancel(("enlist", transaction_id))
        self.release_locks(branch)

    def one_shot_rank(self, branch: Branch, prepare: participant_pb2.Prepare) -> Rank:
        """The rank of one-shot work. What comes behind a later one belongs to no sequence; alone it is where it is."""
        transaction_id = branch.transaction_id
        sequence = sequence_of(transaction_id)
        if not prepare.one_phase:
            known, order = self.last_begun.get(branch.coordinator, ("", 0))
            if sequence == known and prepare.order <= order:
                sequence = ""
            else:
                self.last_begun[branch.coordinator] = (sequence, prepare.order)
        age = (branch.first_attempt_ms, transaction_id)
        # A coordinator that does not say whom it answers for has it answer for everybody.
        return Rank(age, min((prepare.eldest_attempt_ms, ""), age), sequence, prepare.one_phase)

    def leave_line(self, branch: Branch) -> None:
        """Wait for locks no longer."""
        self.timers.cancel(("lock", branch.transaction_id))
        if self.locks.waits(branch.transaction_id):
            self.granted.extend(self.locks.withdraw(branch.transaction_id))

    def release_locks(self, branch: Branch) -> None:
        """Let others have the locks: what they do comes behind this branch in the log."""
        granted = self.locks.release(branch.transaction_id)
        if granted:
            self.granted.extend(granted)

    def keep(self, branch: Branch) -> None:
        """The log must hold records of it."""
        if not branch.logged:
            branch.logged = True
            self.live += 1

    def unkeep(self, branch: Branch) -> None:
        """The log need not hold records of it any more."""
        if branch.logged:
            branch.logged = False
            self.live -= 1

    def defer(self, branch: Branch, kind: Kind, event: Event) -> None:
        """Take an event when what runs has ended; of one kind only the last."""
        branch.deferred = (*(item for item in branch.deferred if item[0] is not kind), (kind, event))

    def idle(self, branch: Branch) -> None:
        """Nothing runs any more: deferred events can be taken."""
        if branch.deferred:
            self.rerun.append(branch)

    def ask_later(self, branch: Branch) -> None:
        """Arm the next inquiry, ever later up to the cap."""
        delay = self.config.inquiry.delay_seconds(branch.attempts, branch.transaction_id)
        self.timers.set(("ask", branch.transaction_id), self.now.monotonic + delay)

    def expired(self, branch: Branch) -> bool:
        """Whether a branch of which nothing is known lies below the watermark."""
        watermark = self.watermarks.get(branch.coordinator) or self.watermarks.get(NAMELESS)
        return watermark is not None and (branch.epoch, branch.order or NEVER_LEARNT) < watermark.asked

    def watermark_of(self, coordinator: str) -> Watermark:
        """A coordinator's watermark. The first one takes over what earlier software kept for all."""
        watermark = self.watermarks.get(coordinator)
        if watermark is None:
            watermark = self.watermarks[coordinator] = Watermark()
            before = self.watermarks.get(NAMELESS)
            if before is not None:
                watermark.durable = watermark.asked = before.durable
        return watermark

    def forget_finished(self, watermark: Watermark) -> None:
        """Forget every finished branch below the watermark."""
        covered = bisect_left(watermark.finished, (*watermark.durable, ""))
        for _, _, transaction_id in watermark.finished[:covered]:
            branch = self.branches.get(transaction_id)
            if branch is not None and branch.state in FINISHED:
                self._forget(branch)
        del watermark.finished[:covered]

    def _forget(self, branch: Branch) -> None:
        del self.branches[branch.transaction_id]
        if not branch.order:
            self.timers.cancel(("ask", branch.transaction_id))  # it has asked for it
        self.unkeep(branch)
        if self.external and branch.resource_branch:
            self.invoke(asked.ForgetBranch(branch.transaction_id))

    def _evict(self) -> None:
        """Bound the memory for late work: the stream's order and the coordinator refuse it as well."""
        while len(self.refused) > self.config.refused_max:
            branch = self.branches.get(self.refused.popleft())
            if branch is not None and branch.state in (State.ABORTED, State.READ_ONLY):
                self.remembers_votes = False
                self._forget(branch)
