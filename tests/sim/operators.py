"""Operators who force outcomes, rightly and wrongly, and who clear up behind themselves.

Online they ask the coordinator (`troth resolve`); for a participant that is down they write an order into its log (`troth log
resolve`). What they have touched is judged by other rules (see `tests.sim.heuristics`), everything else as ever.
"""

from __future__ import annotations

import random
from typing import Any

from coordinator.core import events as into
from coordinator.core.model import BranchStep, State
from participant_sdk.core.branches import State as BranchState
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.world import World
from troth.v1 import admin_pb2, common_pb2, record_pb2

WHO, WHY = "ann", "told by phone"
LOOKS_MAX = 80
HEURISTIC = (common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD)


class Operators:
    """Everything that operators do in a run, and what they were told."""

    def __init__(self, world: World, coordinator: CoordinatorProcess, participants: dict[str, ParticipantProcess]) -> None:
        self.world = world
        self.coordinator = coordinator
        self.participants = participants
        self.over = False
        self.forced: dict[str, dict[str, int]] = {}
        """For each transaction the branches that an operator has ordered to end, and how."""
        self.abandoned: set[str] = set()
        self.undone: dict[str, set[str]] = {}
        """The participants whose part of a transaction is not as was decided, because their logs were lost: none, at this level."""
        self.aborted: set[str] = set()
        """Transactions that they ordered to be aborted as a whole."""
        self.kept: set[str] = set()
        """What the coordinator keeps for an operator, as it listed it last."""
        self.told: dict[str, int] = {}
        """The outcome of each transaction, as the coordinator listed it last."""
        self._tickets = 0
        self._read: dict[str, tuple[int, list[str]]] = {}
        coordinator.on_administered = self._hear

    def touched(self, transaction_id: str) -> bool:
        """Whether its outcome may be an operator's."""
        return transaction_id in self.forced or transaction_id in self.abandoned

    # ---- forcing

    def plan(self, own: random.Random, seconds: float) -> None:
        """Look for something to force from some moment on."""
        kind = own.choice(["force", "force", "offline", "offline", "abandon", "abort", "mistake"])
        self.world.after(own.uniform(0.0, seconds), self._look, own, kind, 0)

    def _look(self, own: random.Random, kind: str, looks: int) -> None:
        if self.over:
            return
        kinds = {
            "force": self._force, "offline": self._offline, "abandon": self._abandon, "abort": self._abort,
            "mistake": self._mistake,
        }  # fmt: skip
        done = kinds[kind](own)
        if not done and looks < LOOKS_MAX:
            self.world.after(own.uniform(0.0, 0.05), self._look, own, kind, looks + 1)

    def _in_doubt(self, participant: ParticipantProcess) -> list[str]:
        return [name for name, state in participant.core.states() if state is BranchState.PREPARED]

    def _force(self, own: random.Random) -> bool:
        """End a branch that is in doubt, against or with a decision that it has not heard."""
        coordinator = self.coordinator
        if not coordinator.alive or not coordinator.serving or coordinator.paused:
            return False
        book = coordinator.core._book
        for name, participant in self.participants.items():
            known = book.participants.get(name)
            if known is None or not known.ready or not participant.alive:
                continue
            for transaction_id in self._in_doubt(participant):
                txn = book.live.get(transaction_id)
                if txn is None or txn.state is State.COMMITTING:
                    self._order(transaction_id, name, own.choice([True, False, False]))
                    return True
        return False

    def _order(self, transaction_id: str, participant: str, commit: bool) -> None:
        action = admin_pb2.RESOLVE_ACTION_COMMIT if commit else admin_pb2.RESOLVE_ACTION_ABORT
        self._note(transaction_id, participant, commit)
        self.world.reach("operator ordered a branch to end")
        self._ask(
            admin_pb2.ResolveRequest(transaction_id=transaction_id, participant=participant, action=action, who=WHO, why=WHY)
        )

    def _note(self, transaction_id: str, participant: str, commit: bool) -> None:
        outcome = common_pb2.OUTCOME_COMMITTED if commit else common_pb2.OUTCOME_ABORTED
        self.forced.setdefault(transaction_id, {})[participant] = outcome

    def _offline(self, own: random.Random) -> bool:
        """Write an order into the log of a participant that is down."""
        for name, participant in self.participants.items():
            if participant.alive and self._in_doubt(participant):
                self._stop(own, self._in_doubt(participant))
            found = [] if participant.alive else self._prepared_in_log(participant)
            found = [one for one in found if name not in self.forced.get(one, {})]
            if found:
                self._write(found[0], name, own.choice([True, False]))
                if own.random() < 0.5:
                    self._write_others(own, found[0], name)
                return True
        return False

    def _write(self, transaction_id: str, name: str, commit: bool) -> None:
        outcome = common_pb2.OUTCOME_COMMITTED if commit else common_pb2.OUTCOME_ABORTED
        order = record_pb2.ForceOrdered(transaction_id=transaction_id, outcome=outcome, who=WHO, why=WHY)
        self.participants[name].disk.append_offline(record_pb2.ParticipantRecord(force_ordered=order).SerializeToString())
        self._note(transaction_id, name, commit)
        self.world.reach("operator's order written offline")
        self.world.say("op", f"OFFLINE {name} {transaction_id} {commit}")

    def _write_others(self, own: random.Random, transaction_id: str, but: str) -> None:
        """The same transaction is ended by hand elsewhere, too."""
        for name, participant in self.participants.items():
            known = name == but or participant.alive or name in self.forced[transaction_id]
            if not known and transaction_id in self._prepared_in_log(participant):
                self._write(transaction_id, name, own.choice([True, False]))

    def _stop(self, own: random.Random, in_doubt: list[str]) -> None:
        """Stop who is in doubt; often everybody else who is in doubt of the same, for another while."""
        for participant in self.participants.values():
            if participant.alive and set(in_doubt) & set(self._in_doubt(participant)):
                participant.down_until = self.world.now + own.uniform(0.2, 3.0)
                participant.crash("and an operator looks into its log")
                if own.random() < 0.15:
                    return

    def _prepared_in_log(self, participant: ParticipantProcess) -> list[str]:
        """What the log of a participant that is down has in doubt; it is read once a life."""
        known = self._read.get(participant.name)
        if known is None or known[0] != participant.life:
            known = self._read[participant.name] = participant.life, self._read_log(participant)
        return known[1]

    def _read_log(self, participant: ParticipantProcess) -> list[str]:
        core = participant.fresh_core()
        core.recover(participant.disk.read()[1], self.world.instant(), participant.opened())
        return [name for name, state in core.states() if state is BranchState.PREPARED]

    def _abandon(self, own: random.Random) -> bool:
        return self._resolve(admin_pb2.RESOLVE_ACTION_ABANDON, (State.COMMITTING,))

    def _mistake(self, own: random.Random) -> bool:
        """Mistype the transaction of an order."""
        coordinator = self.coordinator
        if not coordinator.alive or not coordinator.serving or coordinator.paused:
            return False
        book = coordinator.core._book
        name, epoch = own.choice(sorted(self.participants)), max(0, book.epoch - own.choice([0, 1]))
        mistyped = f"{book.coordinator}.{epoch}.{book.nonce}.{own.choice([1, 99])}.{own.randint(1000, 9999)}"
        action = own.choice([admin_pb2.RESOLVE_ACTION_COMMIT, admin_pb2.RESOLVE_ACTION_ABORT])
        self.world.reach("operator mistyped an id")
        self._ask(admin_pb2.ResolveRequest(transaction_id=mistyped, participant=name, action=action, who=WHO, why=WHY))
        return True

    def _abort(self, own: random.Random) -> bool:
        return self._resolve(admin_pb2.RESOLVE_ACTION_ABORT, (State.ACTIVE, State.PREPARING))

    def _resolve(self, action: admin_pb2.ResolveAction.ValueType, states: tuple[State, ...]) -> bool:
        coordinator = self.coordinator
        if not coordinator.alive or not coordinator.serving or coordinator.paused:
            return False
        for name, txn in coordinator.core._book.live.items():
            owed = any(branch.step is BranchStep.COMMIT_OWED for branch in txn.branches.values())
            if txn.state in states and (owed or txn.state is not State.COMMITTING):
                if action == admin_pb2.RESOLVE_ACTION_ABANDON:
                    self.abandoned.add(name)
                    self.world.reach("operator abandoned a participant")
                else:
                    self.aborted.add(name)
                self._ask(admin_pb2.ResolveRequest(transaction_id=name, action=action, who=WHO, why=WHY))
                return True
        return False

    # ---- seeing, and clearing up

    def _ask(self, request: Any) -> None:
        self._tickets += 1
        self.coordinator.later(0.0, self.coordinator.submit, into.Administer(("op", self._tickets), request))

    def _hear(self, ticket: Any, response: Any) -> None:
        self.world.say("op", response)
        if isinstance(response, admin_pb2.ListTransactionsResponse):
            for summary in response.transactions:
                self.told[summary.transaction_id] = summary.outcome
                if summary.state == State.HEURISTIC.value:
                    self.kept.add(summary.transaction_id)

    def see(self) -> None:
        """Have everything listed."""
        self.told.clear()
        self.kept.clear()
        self._ask(admin_pb2.ListTransactionsRequest(finished=True, limit=10_000))

    def open_heuristics(self) -> list[str]:
        """What is kept for an operator."""
        return [name for name in self.told if name in self.kept]

    def forget(self) -> None:
        """Forget what is kept for an operator."""
        for name in self.open_heuristics():
            self.world.reach("heuristic outcome forgotten")
            self._ask(admin_pb2.ForgetTransactionRequest(transaction_id=name, who=WHO, why=WHY))
