"""Logs of slots that are lost for good, and operators who let another log have the name.

The service's data are in a database beside them: what was committed stands, and what was not finished is undone. So what the log
before had committed by itself stands, and the one that has its name since knows nothing of it: whoever is told "aborted" then is
told what is not so, and a key that is free then is used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

from coordinator.core import replaced
from coordinator.core.model import State as TransactionState
from participant_sdk.core.branches import Config, State
from participant_sdk.core.core import ParticipantCore
from tests.sim.disk import Disk
from tests.sim.operators import WHO, WHY
from tests.sim_cell.nodes import ShardProcess
from tests.sim_cell.services import Service
from tests.sim_cell.store import OwnedLog
from troth.errors import Reason
from troth.ids import service_of
from troth.ready import Opened
from troth.v1 import admin_pb2, client_pb2, common_pb2

if TYPE_CHECKING:
    from tests.sim_cell.operators import CellOperators

LOST_MAX = 2
"""Logs that are lost in a run, at most."""
ANY_TIME = 0.3
"""How often one is lost at any time."""
LOOKS_MAX = 400
"""How often it is looked for a moment at which a slot alone knows something, until it is lost all the same."""
DECIDES_ALONE = frozenset({TransactionState.HANDED_OVER, TransactionState.SETTLING})
STANDS = frozenset({State.FORCED_COMMIT})
"""What is not finished, and stands all the same."""


class Replacing:
    """What was lost, and who has which name since."""

    def __init__(self, operators: CellOperators) -> None:
        self._operators = operators
        self.world, self.cell, self.services = operators.world, operators.cell, operators.services
        self.undone: dict[str, set[str]] = {}
        """For each transaction the services whose part of it was undone with a log that was lost, or that people have seen to."""
        self.lost: dict[str, int] = {}
        """How many logs each slot has lost."""
        self.named: set[str] = set()
        """The slots whose name operators have let a log have, though it was their own. Who is forgotten then stays so for good:
        none of several logs could tell everything (`forgetting`)."""

    # ---- losing

    def lose(self, own: Random) -> bool:
        """Lose the log of a slot that somebody runs, as when its disk dies: at any time, or just when nobody else knows what it has
        done."""
        self._lose_when(own, 0 if own.random() < ANY_TIME else LOOKS_MAX)
        return True

    def _lose_when(self, own: Random, left: int) -> None:
        if self._operators.over or sum(self.lost.values()) >= LOST_MAX:
            return
        found = list(self._alone())
        if not found and left:
            self.world.after(own.uniform(0.0, 0.01), self._lose_when, own, left - 1)
            return
        if not found:
            found = [(one, log) for one in self.services.values() for log in one.slots() if log.disk.durable and log.owner]
        if found:
            self._lose(own, *own.choice(found))

    def _lose(self, own: Random, service: Service, log: OwnedLog) -> None:
        self.world.reach("the log of a slot was lost")
        for worker in service.workers:
            if log.name in worker.cores:
                worker.die(f"and the log of {log.name} is lost")
            worker.acknowledged.pop(log.name, None)
        self._undo(service, log)
        self._begin_anew(service, log)
        self.world.after(own.uniform(0.1, 1.5), self._let_in, own, log)

    def _alone(self) -> Iterator[tuple[Service, OwnedLog]]:
        """The slots that have committed by themselves what no coordinator has heard of yet."""
        for owner in self._operators.owners():
            for txn in owner.core._book.live.values():
                log = self.cell.store.logs[next(iter(txn.branches))] if txn.state in DECIDES_ALONE and txn.branches else None
                bank: Any = log.disk.bank if log is not None else None
                if log is not None and bank.rows.applied.get(txn.id):
                    self.world.reach("a slot had committed what nobody else knew")
                    yield self.services[service_of(log.name)], log

    def _undo(self, service: Service, log: OwnedLog) -> None:
        bank: Any = log.disk.bank
        for transaction_id, state in _unfinished(service.config, log, self.world.instant()):
            if state not in STANDS:
                for account, change in reversed(bank.rows.applied.pop(transaction_id, [])):
                    bank.rows.accounts[account] -= change
            self.undone.setdefault(transaction_id, set()).add(service.name)
        for account in list(bank.row_locks):
            del bank.row_locks[account]

    def _begin_anew(self, service: Service, log: OwnedLog) -> None:
        number = self.lost[log.name] = self.lost.get(log.name, 0) + 1
        log.disk = Disk(log.disk.bank)
        log.disk.log_id = f"log-{log.name}-{number}"
        log.owner, log.backend, log.until, log.leaving = "", None, 0.0, False
        log.epoch += 1  # whatever is on its way to the old one is fenced
        log.history = []
        service.on_slot(log)

    # ---- letting in

    def _let_in(self, own: Random, log: OwnedLog) -> None:
        """Name the log that was refused, for as long as one is."""
        if any(owner.core._book.participants[log.name].refused_log_id == log.disk.log_id for owner in self._know(log)):
            self.world.reach("operator named the log that takes a name over")
            self._operators.order_of(own, self.request(log))
        self.world.after(own.uniform(0.3, 1.0), self._let_in, own, log)

    def request(self, log: OwnedLog) -> admin_pb2.ReplaceParticipantRequest:
        """Let the present log of a slot have its name."""
        self.named.add(log.name)
        return admin_pb2.ReplaceParticipantRequest(participant=log.name, log_id=log.disk.log_id, who=WHO, why=WHY)

    def _know(self, log: OwnedLog) -> list[ShardProcess]:
        owners = self._operators.owners()
        return [owner for owner in owners if log.name in owner.core._book.participants]

    def are_let_in(self) -> bool:
        """Whether every log that took a name over has it."""
        logs = [self.cell.store.logs[name] for name in self.lost]
        return all(
            owner.core._book.participants[log.name].log_id in ("", log.disk.log_id) for log in logs for owner in self._know(log)
        )

    # ---- what was told of it

    def forgotten(self, transaction_id: str) -> None:
        """People have seen to what nobody could tell, and its key is free: who commits under it then does it for them."""
        self.undone.setdefault(transaction_id, set()).update(self.services)

    def is_for_good(self, answer: client_pb2.Answer) -> bool:
        """Whether a question is in doubt, and stays so: only a log that is lost, or had a name before, could tell."""
        if answer.outcome != common_pb2.OUTCOME_IN_DOUBT:
            return False
        if answer.cause.reason == Reason.IN_DOUBT.name and replaced.NOT_KNOWN in answer.cause.message:
            return True
        gone = answer.cause.reason == Reason.UNKNOWN_PARTICIPANT.name
        return gone and any(answer.cause.message.startswith(f"{name} may have it") for name in self.named)


def _unfinished(config: Config, log: OwnedLog, now: Any) -> list[tuple[str, State]]:
    core = ParticipantCore(config)
    core.recover([body for _, body in log.disk.durable], now, Opened(log.disk.log_id, log.disk.position))
    return list(core.states())

