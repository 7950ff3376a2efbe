"""Any history of messages, crashes and answers: what is promised holds, and in the end nothing is left over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from participant_sdk.core import effects as out
from participant_sdk.core.branches import FINISHED, State
from participant_sdk.core.work import ResourceKind
from tests.participant_core.driver import Machinery, ParticipantDriver
from tests.participant_core.shown import shown
from tests.participant_core.test_table import consistent
from tests.transcripts import Command, transaction_id
from troth.errors import LocalProtocolError
from troth.v1 import participant_pb2

NAMES = ("T1", "T2", "T3")
PREPARES = (
    "prepare {t} order={n} operations=debit keys=k age={a}",
    "prepare {t} order={n} operations=debit age={a} one-phase",
    "prepare {t} order={n} operations=read keys=k age={a}",
    "prepare {t} order={n} operations=read keys=~k age={a} hold",
    "prepare {t} order={n} operations=debit keys=~k,j age={a} eldest=100",
    "prepare {t} order={n} operations=read keys=k age={a} hold",
    "prepare {t} order={n} operations=refuse age={a}",
    "prepare {t} order={n} operations=find@k keys=j age={a}",
    "prepare {t} order={n} operations=find@k keys=~j age={a} one-phase",
    "prepare {t} order={n} operations=find# keys=j age={a}",
    "prepare {t} order={n} interactive count=1 age={a}",
    "prepare {t} order={n} interactive count=1 age={a} one-phase",
    "prepare {t} order={n} interactive count=1 age={a} hold",
)
OTHERS = (
    "call c{i} {t} debit keys=k age={a}",
    "call c{i} {t} debit id=same keys=j age={a}",
    "call c{i} {t} read keys=* age={a}",
    "call c{i} {t} debit keys=~k age={a}",
    "call c{i} {t} refuse age={a}",
    "call c{i} {t} find@k keys=j age={a}",
    "last-call c{i} {t}",
    "last-call c{i} {t}",
    "cancel c{j}",
    "enlisted {t} order={n}",
    "enlisted {t} refused=NOT_ACTIVE",
    "commit {t} order={n}",
    "abort {t} order={n}",
    "abort {t} order={n} acknowledge",
    "rollback-if-unseen {t} order={n}",
    "force {t} commit",
    "force {t} abort",
    "force {t} forget",
    "watermark below={n} epoch={e}",
    "local c{i}",
    "local c{i} keys=k read",
    "local c{i} keys=~* read",
    "schema c{i}",
    "resource broken {t}",
    "resource mended {t}",
    "resource lost {t}",
    "resource loses the group",
    "resource keeps the group",
    "connect {s} epoch={e}",
    "disconnect {s}",
    "wait 1.0",
    "wait 11.0",
    "crash",
    "sync",
    "answer",
)
STEP = st.tuples(
    st.one_of(st.sampled_from(("sync", "answer")), st.sampled_from(PREPARES), st.sampled_from(OTHERS)),
    st.sampled_from(NAMES),
    st.integers(1, 3),
)


@dataclass
class Promises:
    """What the participant has said of each branch, and what was decided: never to be contradicted."""

    said: dict[str, set[str]] = field(default_factory=dict)
    decided: dict[str, str] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)
    last_calls: dict[str, str] = field(default_factory=dict)
    """Transactions by the ticket of a last call."""

    def hear(self, effect: Any) -> None:
        """One effect."""
        if isinstance(effect, out.EarlyVoted) and effect.operation_count:
            self.said.setdefault(self.last_calls[effect.ticket], set()).add("YES")
        if not isinstance(effect, out.Send):
            return
        message = effect.message
        said = self.said.setdefault(getattr(message, "transaction_id", ""), set())
        if isinstance(message, participant_pb2.Vote):
            # A vote has no EXPIRED of its own; whoever moved the watermark knows the outcome.
            expired = message.cause.reason == "EXPIRED"
            said.add("EXPIRED" if expired else participant_pb2.VoteKind.Name(message.kind)[10:])
        elif isinstance(message, participant_pb2.Settlement):
            said.add(participant_pb2.SettlementKind.Name(message.kind)[16:])

    def check(self) -> None:
        """No branch is both committed and rolled back, and none votes twice differently."""
        for transaction, said in self.said.items():
            if transaction not in self.forced:
                assert not ("COMMITTED" in said and said & {"ROLLED_BACK", "NO"}), (transaction, said)
                assert not ("READ_ONLY" in said and "YES" in said), (transaction, said)


class History:
    """Carries steps out as a coordinator that keeps to the protocol would let them come."""

    def __init__(self, kind: ResourceKind) -> None:
        self.driver = ParticipantDriver()
        self.driver.run(Command(f"participant {kind.value}"))
        self.promises = Promises()
        self.asked: dict[str, int] = {}
        self.streams, self.epoch, self.incarnation, self.tickets = 1, 7, 1, 0

    @property
    def machine(self) -> Machinery:
        """The participant."""
        return self.driver.machine

    def run(self, line: str) -> list[str]:
        """One command; what it gives is checked."""
        told = list(self.driver.run(Command(line)))
        for effect in self.machine.effects:
            self.promises.hear(effect)
        self.promises.check()
        assert not isinstance(self.driver.error, LocalProtocolError), self.driver.error
        assert consistent(self.machine)
        return told

    def step(self, template: str, name: str, number: int) -> None:
        """One step, unless it would be a lie of the coordinator."""
        verb = template.split()[0]
        transaction = transaction_id(name)
        if verb == "connect":
            self.streams += 1
            self.epoch += number == 3
        if verb in ("commit", "abort") and not self.may_decide(verb, transaction):
            return
        if "refused=" in template and not self.may_decide("abort", transaction):
            return
        if verb == "force":
            self.promises.forced.add(transaction)
        if verb == "prepare":
            # A coordinator asks one incarnation for the vote, and never the next one again (rule 3).
            template += f" incarnation={self.asked.setdefault(transaction, self.incarnation)}"
        self.tickets += 1
        self.promises.last_calls[f"c{self.tickets}"] = transaction
        self.run(
            template.format(
                t=name, n=NAMES.index(name) + 1, a=100 * number, i=self.tickets, j=self.tickets - 1, e=self.epoch, s=self.streams
            )
        )
        if verb == "crash":
            self.incarnation += 1
            self.streams += 1
            self.run(f"start {self.incarnation}")
            self.run(f"connect {self.streams} epoch={self.epoch}")

    def may_decide(self, verb: str, transaction: str) -> bool:
        """COMMIT only after this participant's YES, and no other word of it; never two decisions."""
        said = self.promises.said.get(transaction, set())
        if verb == "commit" and ("YES" not in said or said & {"ROLLED_BACK", "NO"}):
            return False
        return self.promises.decided.setdefault(transaction, verb) == verb

    def finish(self) -> None:
        """The coordinator is there, the resource is well: decide everything, forget everything."""
        resource = self.machine.resource
        resource.broken.clear()
        resource.lost.clear()
        resource.next_lost_group = False
        self.streams += 1
        if not self.machine.core._m.started:
            self.machine.drain()
        self.run(f"connect {self.streams} epoch={self.epoch}")
        for _ in range(3):
            self.machine.drain()
            for transaction in NAMES:
                self.run(f"{self.promises.decided.get(transaction_id(transaction), 'abort')} {transaction}")
                self.machine.drain()
                if transaction_id(transaction) in self.promises.forced:
                    self.run(f"force {transaction} forget")
                    self.machine.drain()
                self.run(f"enlisted {transaction} order=4")  # tombstones ask until they are told their order
            self.machine.advance(20.0)
        self.parked_are_forgotten()
        self.nothing_is_left()

    def parked_are_forgotten(self) -> None:
        """The operator deals with what could not be finished."""
        for transaction, state in self.machine.core.states():
            assert state is State.PARKED, (transaction, state)
            self.run(f"force {transaction} forget")
            self.machine.drain()

    def nothing_is_left(self) -> None:
        """No branch, no lock, no timer, no waiting caller."""
        m = self.machine.core._m
        assert not self.machine.core.states()
        assert not list(m.locks.owners()) and not list(m.locks.in_line())
        assert not m.call_tickets and not m.local and not len(m.timers) and not m.calls_bytes and not m.turns.waiting


@given(st.sampled_from(ResourceKind), st.lists(STEP, max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_history_ends_clean(kind: ResourceKind, steps: list[tuple[str, str, int]]) -> None:
    history = History(kind)
    for step in steps:
        history.step(*step)
    history.finish()


@given(st.sampled_from(ResourceKind), st.lists(STEP, max_size=30))
@settings(max_examples=200, deadline=None)
def test_replay_is_idempotent_and_any_prefix_can_be_recovered(kind: ResourceKind, steps: list[tuple[str, str, int]]) -> None:
    history = History(kind)
    for step in steps:
        history.step(*step)
    history.machine.drain()
    records = history.machine.durable
    assert memory(kind, records) == memory(kind, [*records, *live(kind, records)])
    for length in range(len(records)):
        memory(kind, records[:length])


def recovered(kind: ResourceKind, records: list[bytes]) -> Machinery:
    """A participant that begins with these records."""
    machine = Machinery(kind)
    machine.durable = list(records)
    machine.boot()
    return machine


def live(kind: ResourceKind, records: list[bytes]) -> list[bytes]:
    """What the cleaner would write again behind these records."""
    core = recovered(kind, records).core
    owners = ["", *core._m.branches]
    return [record.SerializeToString() for owner in owners for record in core.live_records(owner)]


def memory(kind: ResourceKind, records: list[bytes]) -> dict[str, Any]:
    """What a participant remembers after these records, and that it can serve."""
    machine = recovered(kind, records)
    m = machine.core._m
    assert consistent(machine)
    found: dict[str, Any] = {
        branch.transaction_id: (
            branch.state,
            branch.order,
            branch.results,
            branch.forced,
            branch.detail,
            shown(m.locks.held(name)),
        )
        for name, branch in m.branches.items()
        if branch.logged or branch.state not in FINISHED
    }
    return found
