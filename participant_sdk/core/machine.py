"""What the transitions work with: the memory of the core, and the few things that they can do to the world."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from participant_sdk.core import work as asked
from participant_sdk.core.branches import FINISHED, Branch, CallEntry, Config, Kind, State
from participant_sdk.core.effects import LocalReply, Reply, Send
from participant_sdk.core.events import Durable
from participant_sdk.core.local import LocalEntry
from participant_sdk.core.locks import LockTable
from participant_sdk.core.work import ResourceKind
from troth.errors import Reason
from troth.ready import Append, Event, Instant, Ready
from troth.timers import Timers
from troth.v1 import common_pb2, participant_pb2, record_pb2

_UNSEEN, _COMMITTED = State.UNSEEN, State.COMMITTED

NEVER_LEARNT = 1 << 64
"""Stands for the order of a finished branch whose order was never learnt: only a newer epoch covers it."""


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
        self.incarnation_asked = 0
        """The one that `Start` asked for, or 0."""
        self.started = False
        self.stopping = False
        self.stream = 0
        """The current session with the coordinator, or 0."""
        self.last_stream = 0
        self.coordinator = ""
        """The coordinator of the current session."""
        self.epochs: dict[str, int] = {}
        self.watermark = (0, 0)
        """(epoch, below), durable."""
        self.watermark_asked = (0, 0)
        self.watermark_in_flight: tuple[int, int] | None = None
        self.branches: dict[str, Branch] = {}
        self.unfinished = 0
        self.live = 0
        """Branches with live records."""
        self.recovering: set[str] = set()
        """Branches of an earlier incarnation that are being undone."""
        self.finished: list[tuple[int, int, str]] = []
        """(epoch, order, transaction) of what the watermark may cover, sorted."""
        self.refused: deque[str] = deque()
        self.locks = LockTable(config.lock_waiters_max)
        self.timers: Timers[tuple[str, Any]] = Timers()
        self.call_tickets: dict[Any, tuple[Branch, CallEntry]] = {}
        self.local: dict[Any, LocalEntry] = {}
        """Local work by ticket, waiting or running."""
        self.ready = Ready()
        self.granted: deque[Any] = deque()
        """Lock owners that have to be told."""
        self.rerun: deque[Branch] = deque()
        """Branches whose deferred events can be taken now."""

    # ---- the world

    def send(self, field: str, message: Message) -> None:
        """Speak to the coordinator; without a session it is not said, and the next session's reports settle it."""
        if self.stream:
            self.ready.effects.append(Send(self.stream, field, message))

    def append(
        self, record: record_pb2.ParticipantRecord, branch: Branch, step: str = "",
        *, force: bool = True, apply: Any = None, patient: bool = False,
    ) -> None:  # fmt: skip
        """Write a record of a branch; the core hears `Durable(step)` when it is durable."""
        event = Durable(branch.transaction_id, step) if step else None
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
        if self.stream:
            vote = participant_pb2.Vote()
            vote.transaction_id, vote.kind, vote.results = branch.transaction_id, kind, branch.results
            if cause is not None:
                vote.cause.CopyFrom(cause)
            self.ready.effects.append(Send(self.stream, "votes", vote))

    def acknowledge(
        self, branch: Branch, kind: participant_pb2.AcknowledgementKind.ValueType, detail: str = "", *, patient: bool = False
    ) -> None:
        """Acknowledge a decision or an operator's order."""
        if self.stream:
            acknowledgement = participant_pb2.Acknowledgement()
            acknowledgement.transaction_id, acknowledgement.kind = branch.transaction_id, kind
            if detail:
                acknowledgement.detail = detail
            self.ready.effects.append(Send(self.stream, "acknowledgements", acknowledgement, patient))

    def settle(self, branch: Branch, kind: participant_pb2.SettlementKind.ValueType) -> None:
        """Answer RollbackIfUnseen."""
        results = branch.results if kind != participant_pb2.SETTLEMENT_KIND_ROLLED_BACK else b""
        self.send(
            "settlements",
            participant_pb2.Settlement(transaction_id=branch.transaction_id, kind=kind, results=results),
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

    def drop(self, branch: Branch) -> None:
        """Forget a branch of which nothing was ever promised."""
        del self.branches[branch.transaction_id]
        self.unfinished -= 1
        self.let_go(branch)
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
        branch.calls = branch.prepare = None
        self.index(branch)
        if state is not _COMMITTED:
            if not branch.durable:
                self.unkeep(branch)
            self.refused.append(branch.transaction_id)
            self._evict()
        if branch.deferred:
            self.rerun.append(branch)

    def index(self, branch: Branch) -> None:
        """Let the watermark find a finished branch."""
        entry = (branch.epoch, branch.order or NEVER_LEARNT, branch.transaction_id)
        if self.finished and entry < self.finished[-1]:
            insort(self.finished, entry)
        else:  # most finish in their order
            self.finished.append(entry)

    def let_go(self, branch: Branch) -> None:
        """Release locks and timers."""
        transaction_id = branch.transaction_id
        self.timers.cancel(("ask", transaction_id))
        if branch.calls is not None:
            self.timers.cancel(("enlist", transaction_id))
        self.release_locks(branch)

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
        return (branch.epoch, branch.order or NEVER_LEARNT) < self.watermark_asked

    def forget_finished(self) -> None:
        """Forget every finished branch below the watermark."""
        covered = bisect_left(self.finished, (*self.watermark, ""))
        for _, _, transaction_id in self.finished[:covered]:
            branch = self.branches.get(transaction_id)
            if branch is not None and branch.state in FINISHED:
                self._forget(branch)
        del self.finished[:covered]

    def _forget(self, branch: Branch) -> None:
        del self.branches[branch.transaction_id]
        self.unkeep(branch)
        if self.external and branch.resource_branch:
            self.invoke(asked.ForgetBranch(branch.transaction_id))

    def _evict(self) -> None:
        """Bound the memory for late work: the stream's order and the coordinator refuse it as well."""
        while len(self.refused) > self.config.refused_max:
            branch = self.branches.get(self.refused.popleft())
            if branch is not None and branch.state in (State.ABORTED, State.READ_ONLY):
                self._forget(branch)
