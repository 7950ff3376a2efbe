"""Whether what operators of a cell were told is true: by what the logs had written when they were told it.

- What was done is durable before anybody is told so, whichever node has told it, and by whom the shard is owned next.
- An order that was told as done is done at every shard that it concerns.
- What is kept for operators is in every listing, of whichever nodes its pages are, once; until it is forgotten.
- What was forgotten is not kept any more, unless somebody has said since what contradicts.
- No end of a branch is recorded twice.
- A transaction that an operator was told is aborted stands nowhere.
- Nothing is kept because a log was replaced where nobody has ordered that.
- An order that was told to wait for a second person waits until one has taken it, and is taken once.
- A key that a client was told committed is found, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coordinator.core import replaced
from tests.sim.clients import COMMITTED, History
from tests.sim.operators import WHO
from tests.sim.run import changes_owed
from tests.sim.scene import Scene
from tests.sim_cell.nodes import Cell
from tests.sim_cell.replacing import Replacing
from troth.cell import coordinator_of
from troth.ready import Append
from troth.v1 import admin_pb2, common_pb2, record_pb2

STANDS = (COMMITTED, common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD)
NOTICED_SECONDS = 0.05
"""How long an owner that runs may take to hear that its append has landed."""
ABORT, ABANDON = admin_pb2.RESOLVE_ACTION_ABORT, admin_pb2.RESOLVE_ACTION_ABANDON


@dataclass
class Asked:
    """What an operator asks, from when on, and which shards knew the participant then."""

    request: Any
    at: float
    known: Sequence[str] = ()
    """The shards whose log knew the participant that it is of."""
    again: bool = False
    """Whether it was asked before, and nothing was heard."""


class Wrote(NamedTuple):
    """A forced record of a shard, and when it was durable."""

    at: float
    shard: str
    kind: str
    body: Any
    epoch: int


class Told:
    """Listens to what operators are told, and to what logs write."""

    def __init__(self, cell: Cell, history: History, *, loses: bool) -> None:
        self.cell, self.world, self.history = cell, cell.world, history
        self.loses = loses
        """Whether a failover takes the end of logs: then nobody can be told what only that had said, until it is found out."""
        self.violations: list[str] = []
        self.wrote: list[Wrote] = []
        self.aborted: set[str] = set()
        """What operators were told is aborted."""
        self.replacing: Replacing
        """What is known of logs that others took the names of."""
        self.replaced: set[str] = set()
        """Transactions of which a participant with another log than before has said what is not as was decided."""
        self.forgotten: dict[str, float] = {}
        """When an operator was told that a transaction is forgotten."""

    def find(self, what: str) -> None:
        """A breach."""
        self.violations.append(f"told is true to operators: {what}")

    # ---- logs

    def recorded(self, shard: str, append: Append) -> None:
        """A shard's log wrote a forced record."""
        record: Any = append.record
        kind = record.WhichOneof("kind") or ""
        if kind not in ("heuristic", "forgotten", "participant_bound"):
            return
        body = getattr(record, kind)
        wrote = Wrote(self.world.now, shard, kind, body, self.cell.store.logs[shard].epoch)
        if self._is_again(wrote):
            self.violations.append(f"recorded once: {shard} recorded {kind} of {body.transaction_id} again, in epoch {wrote.epoch}")
        if kind == "heuristic" and self._has_another_log(shard, body.participant):
            self.replaced.add(body.transaction_id)
        elif kind == "heuristic" and (body.why == replaced.WHY or body.lacking):
            self.find(f"{body.transaction_id} is kept because {body.participant} had another log before, and nobody ordered that")
        elif kind == "forgotten" and body.transaction_id in self.replaced:
            self.replacing.forgotten(body.transaction_id)
        self.wrote.append(wrote)

    def _has_another_log(self, shard: str, participant: str) -> bool:
        """Whether somebody has ordered, durably, that another log may have the name."""
        return any(
            one.kind == "participant_bound" and one.shard == shard and one.body.participant == participant and one.body.who
            for one in self.wrote
        )  # fmt: skip

    def _is_again(self, wrote: Wrote) -> bool:
        """Whether an owner of before has recorded the same, and nothing came between that it could be said of anew. (One owner may
        write the same twice, while the first is on its way.)"""
        body = wrote.body
        if self.loses:
            return False
        if wrote.kind == "forgotten":
            before = self._of(body.transaction_id)
            return bool(before) and before[-1].kind == "forgotten" and before[-1].epoch < wrote.epoch
        return wrote.kind == "heuristic" and any(
            (one.body.participant, one.body.branch_outcome, one.body.who, one.body.why)
            == (body.participant, body.branch_outcome, body.who, body.why)
            and one.epoch < wrote.epoch for one in self.ends(body.transaction_id)
        )  # fmt: skip

    def ends(self, transaction_id: str) -> list[Wrote]:
        """What logs say of a transaction that did not end by the protocol, since it was forgotten last."""
        found: list[Wrote] = []
        for one in self._of(transaction_id):
            found = [*found, one] if one.kind == "heuristic" else []
        return found

    def _of(self, transaction_id: str) -> list[Wrote]:
        return [one for one in self.wrote if one.kind != "participant_bound" and one.body.transaction_id == transaction_id]

    def known(self, request: Any) -> Sequence[str]:
        """The shards whose log knows the participant that an order is of."""
        if not isinstance(request, admin_pb2.ForgetParticipantRequest | admin_pb2.ReplaceParticipantRequest):
            return ()
        bound = {shard: self._bound(shard, request.participant) for shard in self.cell.shards}
        return [shard for shard, one in bound.items() if one is not None and not one.forgotten]

    def _bound(self, shard: str, name: str) -> record_pb2.ParticipantBound | None:
        for _, body in reversed(self.cell.store.logs[shard].disk.durable):
            record = record_pb2.CoordinatorRecord.FromString(body)
            if record.HasField("participant_bound") and record.participant_bound.participant == name:
                return record.participant_bound
        return None

    # ---- answers

    def hear(self, asked: Asked, answer: Any) -> None:
        """An operator was told something."""
        request = asked.request
        fields = type(answer).DESCRIPTOR.fields_by_name
        if "refusal" in fields and answer.HasField("refusal"):
            if asked.again:
                self.world.reach("an order was asked again, and refused")
        elif isinstance(request, admin_pb2.ResolveRequest):
            self._resolved(request)
        elif isinstance(request, admin_pb2.ForgetTransactionRequest):
            self._forgot(request.transaction_id)
        elif isinstance(request, admin_pb2.ForgetParticipantRequest | admin_pb2.ReplaceParticipantRequest):
            self._done_everywhere(asked, forgotten=isinstance(request, admin_pb2.ForgetParticipantRequest))
        if asked.again:
            self.world.reach("an order was asked again, of another node")

    def _resolved(self, request: admin_pb2.ResolveRequest) -> None:
        name = request.transaction_id
        if request.participant:
            self.world.reach("operator was told that a branch was ordered to end")
        elif request.action == ABORT:
            self.world.reach("operator was told of an abort")
            self.aborted.add(name)
        else:
            self.world.reach("operator was told that nobody is waited for")
            if not any(one.kind == "heuristic" and (one.body.transaction_id, one.body.who) == (name, WHO) for one in self.wrote):
                self.find(f"{name} was told abandoned, and no log says so")

    def _forgot(self, name: str) -> None:
        self.world.reach("operator was told that it is forgotten")
        self.forgotten[name] = self.world.now
        if not any(one.kind == "forgotten" and one.body.transaction_id == name for one in self.wrote):
            self.find(f"{name} was told forgotten, and no log says so")

    def _done_everywhere(self, asked: Asked, *, forgotten: bool) -> None:
        name = asked.request.participant
        what = "a participant is forgotten" if forgotten else "a log is let in"
        self.world.reach(f"operator was told that {what}")
        since = [one for one in self.wrote if one.kind == "participant_bound" and one.at >= asked.at]
        bound = [one for one in since if one.body.participant == name]
        for shard in asked.known if not self.loses else ():
            if not any(one.shard == shard and one.body.who and (one.body.forgotten or not forgotten) for one in bound):
                self.find(f"{name} was told {'forgotten' if forgotten else 'let in'}, and {shard} has not done it")

    # ---- listings

    def keys_told(self) -> dict[str, set[str]]:
        """The keys that clients were told committed, and changed something, by their transactions."""
        told, attempts = self.history.keys, self.history.attempts
        return {key: set(names) for key, names in told.items() if any(changes_owed(attempts[name].work) for name in names)}

    def looked_up(self, key: str, told: Collection[str], rows: Iterable[admin_pb2.TransactionSummary]) -> None:
        """An operator has looked a key up that was told committed: it is found once, or is being asked of who has done it."""
        found = list(rows)
        stands = [row.transaction_id for row in found if row.outcome in STANDS]
        settling = [row for row in found if row.transaction_id in told and row.outcome == common_pb2.OUTCOME_IN_DOUBT]
        if (len(stands) > 1 or not (stands or settling)) and not self.loses:
            self.find(f"the key {key} was told committed by {sorted(told)}, and is found in {stands}")

    def page(self, rows: Mapping[str, Any], page: Iterable[admin_pb2.TransactionSummary]) -> None:
        """One page of a listing: of nothing that was listed before, but for what was announced before its client was heard of, and
        has another first attempt since."""
        for row in page:
            if row.transaction_id in rows and rows[row.transaction_id].first_attempt_ms == row.first_attempt_ms:
                self.find(f"{row.transaction_id} was listed twice")

    def listed(self, rows: Mapping[str, admin_pb2.TransactionSummary], began: float, key: str) -> None:
        """A listing of all shards is complete."""
        if not key and not self.loses:
            for name in self.kept_since(began - NOTICED_SECONDS):
                if name not in rows:
                    self.find(f"{name} is kept for operators, and was not listed")

    def kept_since(self, moment: float) -> Iterator[str]:
        """What was kept for operators at a moment, and is still."""
        ended = {one.body.transaction_id for one in self.wrote if one.kind == "heuristic" and one.at < moment}
        return (name for name in sorted(ended) if self.ends(name))

    def judge(self, scene: Scene, kept: Iterable[str]) -> Iterator[str]:
        """What is to be said when all is over: of aborts, and of what was forgotten."""
        for name in self.aborted:
            if name not in scene.expected:
                continue
            _, found = scene.by_protocol(name)
            if found or COMMITTED in self.history.told.get(name, ()):
                yield f"told is true to operators: {name} was told aborted, and stands at {found}"
        for name in kept:
            if name in self.forgotten and not self.ends(name):
                yield f"told is true to operators: {name} was told forgotten, and is kept, though nobody has contradicted since"
        for name in self.wrote_of_others():
            yield f"recorded once: {name}"

    def wrote_of_others(self) -> Iterator[str]:
        """Records of a shard about another one's transactions."""
        for one in self.wrote:
            if one.kind != "participant_bound" and coordinator_of(one.body.transaction_id) != one.shard:
                yield f"{one.shard} has recorded {one.kind} of {one.body.transaction_id}"
