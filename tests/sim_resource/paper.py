"""The coordinator on paper, its clients and its operators: it begins, decides at random, and never forgets a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from participant_sdk.core import events as into
from participant_sdk.core.work import Keys
from participant_sdk.lock_keys import keys_of_local_work, sorted_keys
from participant_sdk.resources.sqlite import schema_change
from tests.sim.world import EPOCH_MS, World
from tests.sim_resource.author import OWNERS, Author, Work
from tests.sim_resource.service import LocalFunction, Service
from troth.errors import RequestError
from troth.v1 import common_pb2, participant_pb2

COMMIT, ABORT = participant_pb2.DECISION_KIND_COMMIT, participant_pb2.DECISION_KIND_ABORT
FORGET = participant_pb2.FORCE_KIND_FORGET
FORCE_COMMIT, FORCE_ABORT = participant_pb2.FORCE_KIND_COMMIT, participant_pb2.FORCE_KIND_ABORT
FORCED_COMMIT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_COMMIT
FORCED_ABORT = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
RETRIES_MAX = 4
ORDERS_MAX = 4
"""An operator who asks for a rollback as often as this, and in vain, gives the branch up."""


@dataclass
class Transaction:
    """One transaction, as the coordinator knows it. This service is its only participant that anybody looks at."""

    id: str
    order: int
    first_attempt_ms: int
    works: list[Work]
    interactive: bool
    one_phase: bool
    hold: bool
    incarnation: int
    retries: int = 0
    succeeded: int = 0
    calls_done: int = 0
    yes: bool = False
    decision: int = 0
    finished: bool = False
    parked: bool = False
    force: int = 0
    """What an operator has ordered."""
    orders: int = 0

    @property
    def age(self) -> tuple[int, str]:
        """For wait-die."""
        return self.first_attempt_ms, self.id


def keys_of(works: list[Work]) -> Keys:
    """The declared keys of works, as the registry gives them."""
    return sorted_keys([key for work in works for key in work.keys if key not in work.found])


class Paper:
    """Begins, decides, repeats, and hears."""

    def __init__(self, world: World, service: Service, author: Author) -> None:
        self.world = world
        self.service = service
        self.author = author
        self.checkers = service.checkers
        self.transactions: dict[str, Transaction] = {}
        self.peace = False
        self.started = 0
        self._locals = 0
        service.hear = self.hear

    # ---- the workload

    def schedule(self, count: int, seconds: float) -> None:
        """Spread transactions and local work over a while; often several at once, so that batches have several members."""
        roll = self.world.random
        while count > 0:
            at = roll.uniform(0.0, seconds)
            for _ in range(min(count, roll.choice([1, 2, 4]))):
                self.world.after(at, self.begin)
                count -= 1
        for _ in range(roll.choice([0, 0, 1])):
            self.world.after(roll.uniform(0.0, seconds), self.begin_narrow)
        for _ in range(roll.choice([0, 1, 2])):
            self.world.after(roll.uniform(0.0, seconds), self.begin_losing)
        for _ in range(roll.randint(2, 8)):
            self.world.after(roll.uniform(0.0, seconds), self.local)
        for _ in range(roll.choice([0, 0, 1, 2])):
            self.world.after(roll.uniform(0.0, seconds), self.change_schema)
        self.world.after(0.2, self.patrol)
        self.world.after(0.2, self.watch_lines)

    @property
    def connected(self) -> bool:
        """Whether the service can be reached."""
        return self.service.alive and self.service.stream != 0

    def begin(self) -> None:
        """A transaction begins."""
        roll = self.world.random
        interactive = roll.random() < 0.4
        works = [self.author.operation() for _ in range(roll.choice([1, 1, 1, 2, 3]))]
        if interactive and len(works) > 1 and roll.random() < 0.6:
            owner = roll.randrange(OWNERS)
            works[1:] = [self.author.partition(owner) for _ in range(3)]
        if not interactive and len(works) > 1 and any(work.expected for work in works[:-1]):
            works = works[-1:]  # what stands behind a refused operation never runs
        if not interactive and sum("badge" in work.tables for work in works) > 1:
            works = works[:1]  # a row that is written and removed again is locked by nobody but its key
        self._begin(works, interactive, EPOCH_MS + int(self.world.now * 1000), 0)

    def begin_losing(self) -> None:
        """Several at once, and one of them ends the transaction of all."""
        works = [self.author.partition(), self.author.sloppy(), self.author.losing(), self.author.partition()]
        for work in works:
            self._begin([work], False, EPOCH_MS + int(self.world.now * 1000), 0)
        for txn in self.transactions.values():
            if txn.yes and not txn.decision and self.world.random.random() < 0.5:
                self.decide(txn, self.world.random.choice([COMMIT, ABORT]))

    def begin_narrow(self) -> None:
        """One branch gives up a name, another takes it; then the first is rolled back, and somebody wants its row."""
        gives, takes, wants = self.author.narrow()
        roll = self.world.random
        now = EPOCH_MS + int(self.world.now * 1000)
        first = self._begin([gives, *[self.author.partition() for _ in range(roll.choice([0, 1, 2]))]], True, now, 0)
        self.world.after(0.1, lambda: self._begin([takes], False, now, 0))
        self.world.after(0.3, lambda: first and self.decide(first, ABORT))
        self.world.after(0.4, lambda: self._begin([wants], False, now, 0))

    def _begin(self, works: list[Work], interactive: bool, first_attempt_ms: int, retries: int) -> Transaction | None:
        if not self.connected:
            return None
        roll = self.world.random
        self.started += 1
        name = f"c1.1.ab.1.{self.started}"
        txn = Transaction(
            name, self.started, first_attempt_ms, works, interactive, roll.random() < 0.2, roll.random() < 0.2,
            self.service.incarnation, retries,
        )  # fmt: skip
        self.transactions[name] = txn
        self.checkers.ages[name] = txn.age
        self.checkers.began(name)
        if interactive:
            self._call(txn)
        else:
            self._prepare(txn)
        return txn

    def _prepare(self, txn: Transaction) -> None:
        message = participant_pb2.Prepare(
            transaction_id=txn.id,
            order=txn.order,
            operations=() if txn.interactive else [work.operation() for work in txn.works],
            operation_count=txn.succeeded,
            one_phase=txn.one_phase,
            hold_read_locks=txn.hold,
            incarnation=txn.incarnation,
            first_attempt_ms=txn.first_attempt_ms,
            # This service is everybody's only one: nobody is before a one-shot elsewhere.
            eldest_attempt_ms=0 if txn.interactive else txn.first_attempt_ms,
            interactive=txn.interactive,
        )
        keys = self.service.disk.operations.registry.keys(message.operations)
        event = into.PrepareReceived(0, message, tuple(message.operations), keys)
        for _ in range(self.world.random.choice([1, 1, 1, 2])):
            self.service.tell(event)

    def _call(self, txn: Transaction) -> None:
        number = txn.calls_done
        if number == len(txn.works):
            if self.world.random.random() < 0.15:
                self.decide(txn, ABORT)
            else:
                self._prepare(txn)
            return
        work = txn.works[number]
        for repeat in range(self.world.random.choice([1, 1, 1, 2])):
            ticket = (txn.id, number, repeat)
            self.service.replies[ticket] = lambda effect: self._called(txn, number, effect)
            keys = self.service.disk.operations.registry.keys([work.operation()])
            call = into.Call(ticket, txn.id, f"call{number}", txn.first_attempt_ms, work.operation(), keys)
            self.service.later(self.world.random.choice([0.0, 0.001]), lambda call=call: self.service.submit(call))

    def _called(self, txn: Transaction, number: int, effect: Any) -> None:
        if txn.calls_done != number or txn.decision:
            return  # the answer to a repeat
        txn.calls_done += 1
        if effect.cause is None:
            txn.succeeded += 1
        elif self._dead(effect.cause):
            self.checkers.died(txn.id, self.world.now, excused=self.service.has_stuck())
        if effect.cause is not None and self.world.random.random() < 0.6:
            self.decide(txn, ABORT)
        else:
            self.world.after(self.world.random.choice([0.0, 0.002, 0.1]), lambda: self._next_call(txn))

    def _next_call(self, txn: Transaction) -> None:
        if not txn.decision and not txn.finished and self.connected and txn.incarnation == self.service.incarnation:
            self._call(txn)

    def _dead(self, cause: common_pb2.Cause) -> bool:
        return cause.reason == "CONFLICT" and "older" in cause.message

    def local(self) -> None:
        """The service works on its own data; or uses what it should not have kept."""
        roll = self.world.random
        kept = self.service.disk.operations.kept
        if kept is not None and roll.random() < 0.5:
            self._use_kept(kept)
        if not self.connected:
            return
        write = roll.random() < 0.6
        work = self.author.operation() if write else roll.choice([self.author.reading, self.author.looking])()
        if work.found:
            work = self.author.partition()  # local work names its keys before
        if not write and roll.random() < 0.3:
            partition = self.author.partition()
            work = Work(partition.steps, partition.keys, "FORBIDDEN_SQL")
        self._locals += 1
        ticket = ("local", self._locals)
        function = LocalFunction(self.service.disk.operations, work)
        self._submit(into.LocalWork(ticket, function, write, keys_of_local_work(work.named, reads=not write)))

    def _submit(self, event: Any) -> None:
        self.service.later(0.0, lambda: self.service.submit(event))

    def _use_kept(self, kept: Any) -> None:
        self.service.disk.operations.kept = None
        try:
            kept.execute("UPDATE plain SET n = 'outside'")
        except RequestError:
            return
        except Exception as error:
            self.checkers.violate("outside", f"a database that was kept says {error!r}")
            return
        self.checkers.violate("outside", "a database was used after its operation had ended")

    def change_schema(self) -> None:
        """The service changes its schema, through the SDK."""
        if not self.connected:
            return
        number = self.author.fresh()
        sql = self.world.random.choice(
            [f"CREATE TABLE extra{number} (id INTEGER PRIMARY KEY, v)", f"ALTER TABLE doc ADD COLUMN c{number}",
             f"ALTER TABLE plain ADD COLUMN c{number}", f"CREATE INDEX by{number} ON plain (n)"]
        )  # fmt: skip
        ticket = ("schema", sql)
        self.service.replies[ticket] = lambda effect: self.world.reach("schema refused" if effect.cause else "schema changed")
        self._submit(into.SchemaChange(ticket, schema_change(sql), sql))

    # ---- deciding

    def decide(self, txn: Transaction, decision: int) -> None:
        """Decide, once."""
        if txn.decision or txn.finished:
            return
        txn.decision = decision
        if decision == ABORT:
            self.checkers.give_up(txn.id)
        self._tell_decision(txn, acknowledge=self.world.random.random() < 0.5)

    def _tell_decision(self, txn: Transaction, *, acknowledge: bool) -> None:
        if self.connected:
            message = participant_pb2.Decision(
                transaction_id=txn.id, order=txn.order, kind=txn.decision, acknowledge=acknowledge  # type: ignore[arg-type]  # an enum
            )
            self.service.tell(message)

    def patrol(self) -> None:
        """Say again what has not been answered; for ever."""
        if self.connected:
            for txn in [txn for txn in self.transactions.values() if not txn.finished]:
                self._urge(txn)
            open_orders = [txn.order for txn in self.transactions.values() if not txn.finished]
            if self.world.random.random() < 0.3:
                below = min(open_orders, default=self.started + 1)
                self.service.tell(participant_pb2.Watermark(epoch=1, below=below))
        self.world.after(0.25, self.patrol)

    def watch_lines(self) -> None:
        """Look at who waits for locks, now and then."""
        if self.connected:
            self.service.check_waiting(self._waits_for)
        self.world.after(0.05, self.watch_lines)

    def _waits_for(self, name: str) -> tuple[Keys, int]:
        txn = self.transactions[name]
        if txn.interactive and txn.calls_done < len(txn.works):
            return keys_of(txn.works[txn.calls_done : txn.calls_done + 1]), txn.calls_done
        return keys_of(txn.works), 0

    def _urge(self, txn: Transaction) -> None:
        if txn.parked:
            if self.peace:
                self._operate(txn)
        elif txn.decision:
            self._tell_decision(txn, acknowledge=True)
        elif txn.yes:
            pass  # it will be decided
        elif txn.incarnation != self.service.incarnation:
            if txn.one_phase and (not txn.interactive or txn.calls_done == len(txn.works)):
                self.service.tell(participant_pb2.RollbackIfUnseen(transaction_id=txn.id, order=txn.order))
            else:
                self.decide(txn, ABORT)

    def _operate(self, txn: Transaction) -> None:
        """An operator deals with a parked branch; the same order again until it is answered."""
        if not txn.force:
            txn.force = self.world.random.choice([FORGET, FORCE_ABORT, FORCE_COMMIT])
        txn.orders += 1
        if txn.orders == ORDERS_MAX:
            txn.force = FORGET  # it still cannot be rolled back
        self._order(txn, txn.force)

    def _order(self, txn: Transaction, kind: int) -> None:
        message = participant_pb2.Force(transaction_id=txn.id, kind=kind, who="ann", why="looked at it")  # type: ignore[arg-type]  # an enum
        self.service.tell(message)

    # ---- hearing

    def hear(self, field: str, message: Any) -> None:
        """A message of the participant."""
        txn = self.transactions[message.transaction_id]
        if field == "enlists":
            self.service.tell(participant_pb2.Enlisted(transaction_id=txn.id, order=txn.order))
        elif field == "votes":
            self._voted(txn, message)
        elif field == "acknowledgements":
            self._acknowledged(txn, message.kind)
        elif field == "reports":
            self._reported(txn, message.state)
        elif field == "settlements":
            if message.kind == participant_pb2.SETTLEMENT_KIND_PREPARED:
                self._is_prepared(txn)
            else:
                self._finish(txn)
        elif field == "inquiries" and txn.decision:
            self._tell_decision(txn, acknowledge=True)

    def _voted(self, txn: Transaction, vote: participant_pb2.Vote) -> None:
        if vote.kind == participant_pb2.VOTE_KIND_YES:
            self._is_prepared(txn)
            return
        if vote.kind == participant_pb2.VOTE_KIND_NO:
            if self._dead(vote.cause):
                self.world.reach("died")
                self.checkers.died(txn.id, self.world.now, excused=self.service.has_stuck())
            if vote.cause.retryable and txn.retries < RETRIES_MAX and not txn.finished and not self.peace:
                again = [txn.works, txn.interactive, txn.first_attempt_ms, txn.retries + 1]
                self.world.after(self.world.random.uniform(0.05, 0.6), lambda: self._begin(*again))
        self._finish(txn)

    def _is_prepared(self, txn: Transaction) -> None:
        if txn.decision:
            self._tell_decision(txn, acknowledge=True)
        elif not txn.yes:
            txn.yes = True
            decision = COMMIT if self.world.random.random() < 0.6 else ABORT
            self.world.after(self.world.random.choice([0.0, 0.01, 0.1, 0.6]), lambda: self.decide(txn, decision))

    def _acknowledged(self, txn: Transaction, kind: int) -> None:
        if kind == participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD:
            self.world.reach("hazard")
            if txn.decision == COMMIT:
                self.checkers.violate("commit cannot fail", f"the COMMIT of {txn.id} was answered with HAZARD")
            txn.parked, txn.finished = True, False  # it may have voted NO, and cannot be rolled back
        elif kind in (FORCED_COMMIT, FORCED_ABORT):
            self.world.reach("forced")
            if txn.force and (txn.force == FORCE_COMMIT) != (kind == FORCED_COMMIT) and txn.force != FORGET:
                self.checkers.violate("orders", f"the order {txn.force} for {txn.id} was answered with {kind}")
            txn.force = FORGET
            self._order(txn, FORGET)
        else:
            self._finish(txn)

    def _reported(self, txn: Transaction, state: int) -> None:
        if state == participant_pb2.BRANCH_STATE_PREPARED:
            self._is_prepared(txn)
        elif state == participant_pb2.BRANCH_STATE_COMMITTED:
            self._finish(txn)
        elif state == participant_pb2.BRANCH_STATE_HAZARD:
            txn.parked = True
        elif state in (participant_pb2.BRANCH_STATE_FORCED_COMMIT, participant_pb2.BRANCH_STATE_FORCED_ABORT):
            self._reported_forced(txn)

    def _reported_forced(self, txn: Transaction) -> None:
        """An operator has ended it: the decision, which is the same, will close it, or the operator forgets it."""
        txn.force = FORGET
        txn.parked = self.world.random.random() < 0.5

    def _finish(self, txn: Transaction) -> None:
        txn.finished = True
        self.checkers.ended(txn.id, self.world.now)
