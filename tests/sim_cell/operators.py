"""Operators of a cell. They ask any node, in the middle of whatever happens to it, and ask another one when they hear nothing.

What they do is drawn from the seed: they end branches in doubt, abort, abandon, forget, forget participants and let their logs in
again, or others where one is lost, drain nodes, list, look keys up, and have orders wait for a second person; and often just then
the node that has the shard is stopped, killed, drained or cut off, or the store fails over. What they were told is judged as soon
as they are told it, by what logs have written by then (`tests.sim_cell.told`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

from coordinator.core.model import BranchStep, State, Transaction
from participant_sdk.core.branches import State as BranchState
from tests.sim.operators import WHO, WHY
from tests.sim_cell.desk import Desk
from tests.sim_cell.nodes import Cell, ShardProcess
from tests.sim_cell.replacing import Replacing
from tests.sim_cell.reviewing import Reviewing
from tests.sim_cell.services import Service
from tests.sim_cell.told import Asked, Told
from troth.cell import coordinator_of
from troth.ids import service_of
from troth.v1 import admin_pb2, common_pb2

LOOKS_MAX = 80
TRIES_MAX = 12
PAGE_ROWS = 3
KINDS = (
    "force", "force", "force", "force", "abort", "abort", "abandon", "abandon", "forget", "forget", "list", "look up", "drain",
    "forget participant", "forget participant", "repair", "repair",
)  # fmt: skip
STIRS = ("pause", "drain", "die", "cut", "fail over", "away")
HEURISTIC_STATE = State.HEURISTIC.value

Listed = Callable[[dict[str, admin_pb2.TransactionSummary]], None]


class CellOperators:
    """Everything that operators do in a run. `stir` makes trouble of a kind for a host: at the worst moment, often."""

    def __init__(
        self, cell: Cell, services: dict[str, Service], judge: Told, stir: Callable[[str, str, Random], None]
    ) -> None:  # fmt: skip
        self.world, self.cell, self.services = cell.world, cell, services
        self.desk = Desk(cell)
        self.judge = judge
        self._stir = stir
        self.over = False
        self.forced: dict[str, dict[str, int]] = {}
        """For each transaction the services whose branch somebody has ordered to end, and how."""
        self.abandoned: set[str] = set()
        self.told: dict[str, int] = {}
        """How each transaction ended, as it was listed last."""
        self.kept: set[str] = set()
        """What is kept for operators, as it was listed last."""
        self.replacing = judge.replacing = Replacing(self)
        self.reviewing = Reviewing(self)

    def touched(self, transaction_id: str) -> bool:
        """Whether its outcome may be an operator's."""
        by_hand = transaction_id in self.forced or transaction_id in self.abandoned
        return by_hand or transaction_id in self.judge.replaced or transaction_id in self.replacing.undone

    @property
    def undone(self) -> dict[str, set[str]]:
        """The services whose part of a transaction is not as was decided, because their logs were lost."""
        return self.replacing.undone

    def plan(self, own: Random, seconds: float, kind: str = "") -> None:
        """Look for something to do from some moment on, of a kind or of any but the rare ones."""
        self.world.after(own.uniform(0.0, seconds), self._look, own, kind or own.choice(KINDS), 0)

    def _look(self, own: Random, kind: str, looks: int) -> None:
        if self.over:
            return
        kinds = {
            "force": self._force, "abort": self._abort, "abandon": self._abandon, "forget": self._forget, "list": self._list,
            "look up": self._look_up, "drain": self._drain, "forget participant": self._forget_participant, "repair": self._repair,
            "lose a log": self.replacing.lose, "review": self._review,
        }  # fmt: skip
        if not kinds[kind](own) and looks < LOOKS_MAX:
            self.world.after(own.uniform(0.0, 0.05), self._look, own, kind, looks + 1)

    # ---- asking

    def ask(self, own: Random, request: Any, heard: Callable[[Any], None] | None = None) -> None:
        """Have something done, or said: by any node, and by another one while nothing is heard."""
        self._try(own, Asked(request, self.world.now, self.judge.known(request)), heard, TRIES_MAX)

    def _try(self, own: Random, asked: Asked, heard: Callable[[Any], None] | None, left: int) -> None:
        address = own.choice(sorted(self.cell.nodes))
        self.desk.ask(address, asked.request, partial(self._hear, own, asked, heard, left))

    def _hear(self, own: Random, asked: Asked, heard: Callable[[Any], None] | None, left: int, answer: Any) -> None:
        self.world.say("op", f"{type(asked.request).__name__} {asked.request}: {answer}")
        if answer is not None:
            self.judge.hear(asked, answer)
            if heard is not None:
                heard(answer)
        elif left:
            asked.again = True
            self.world.after(own.uniform(0.01, 0.4), self._try, own, asked, heard, left - 1)

    def _order(self, own: Random, shard: str, request: Any) -> bool:
        """Have something done, while something happens to who has the shard."""
        owner = self._owner(shard)
        if owner is not None and own.random() < 0.5:
            self.world.after(own.uniform(0.0, 0.02), self._stir, own.choice(STIRS), owner.host.name, own)
        self.ask(own, request)
        return True

    def _owner(self, shard: str) -> ShardProcess | None:
        """Who serves a shard, if anybody does."""
        for node in self.cell.nodes.values():
            core = node.cores.get(shard)
            if isinstance(core, ShardProcess) and core.alive and core.serving:
                return core
        return None

    def _owners(self, own: Random) -> Iterator[ShardProcess]:
        shards = list(self.cell.shards)
        own.shuffle(shards)
        return (owner for shard in shards if (owner := self._owner(shard)) is not None)

    # ---- transactions

    def _force(self, own: Random) -> bool:
        """End a branch that is in doubt, against or with a decision that it has not heard."""
        for owner in self._owners(own):
            book = owner.core._book
            for slot, transaction_id in self._in_doubt(owner.shard):
                known, txn = book.participants.get(slot), book.live.get(transaction_id)
                if known is not None and known.ready and (txn is None or txn.state in (State.COMMITTING, State.HEURISTIC)):
                    return self._force_one(own, owner.shard, slot, transaction_id)
        return False

    def _in_doubt(self, shard: str) -> Iterator[tuple[str, str]]:
        for service in self.services.values():
            for slot in service.running_all():
                for transaction_id, state in slot.core.states():
                    if state is BranchState.PREPARED and coordinator_of(transaction_id) == shard:
                        yield slot.name, transaction_id

    def _force_one(self, own: Random, shard: str, slot: str, transaction_id: str) -> bool:
        commit = own.choice([True, False, False])
        action = admin_pb2.RESOLVE_ACTION_COMMIT if commit else admin_pb2.RESOLVE_ACTION_ABORT
        outcome = common_pb2.OUTCOME_COMMITTED if commit else common_pb2.OUTCOME_ABORTED
        self.forced.setdefault(transaction_id, {})[service_of(slot)] = outcome
        self.world.reach("operator ordered a branch to end")
        return self._order(own, shard, self._resolve(transaction_id, action, slot))

    def _resolve(self, transaction_id: str, action: admin_pb2.ResolveAction.ValueType, slot: str = "") -> Any:
        return admin_pb2.ResolveRequest(transaction_id=transaction_id, participant=slot, action=action, who=WHO, why=WHY)

    def _abort(self, own: Random) -> bool:
        found = self._found(own, lambda txn: txn.state in (State.ACTIVE, State.PREPARING))
        if found is None:
            return False
        self.world.reach("operator aborted a transaction")
        return self._order(own, found[0], self._resolve(found[1], admin_pb2.RESOLVE_ACTION_ABORT))

    def _abandon(self, own: Random) -> bool:
        found = self._found(own, _is_owed)
        if found is None:
            return False
        self.abandoned.add(found[1])
        self.world.reach("operator abandoned a participant")
        return self._order(own, found[0], self._resolve(found[1], admin_pb2.RESOLVE_ACTION_ABANDON))

    def _forget(self, own: Random) -> bool:
        """Forget what is kept, in the middle of it all."""
        found = self._found(own, lambda txn: txn.state is State.HEURISTIC)
        return found is not None and self._order(own, found[0], self._forget_request(found[1]))

    def _found(self, own: Random, wanted: Callable[[Transaction], bool]) -> tuple[str, str] | None:
        """The shard and the id of a transaction that is as wanted, if there is one."""
        return next((
            (owner.shard, name) for owner in self._owners(own) for name, txn in owner.core._book.live.items() if wanted(txn)
        ), None)  # fmt: skip

    def _forget_request(self, transaction_id: str) -> Any:
        return admin_pb2.ForgetTransactionRequest(transaction_id=transaction_id, who=WHO, why=WHY)

    # ---- participants, and nodes

    def _slot(self, own: Random) -> str:
        slots = [log.name for service in self.services.values() for log in service.slots()]
        return own.choice(slots) if slots else ""

    def _forget_participant(self, own: Random) -> bool:
        """Forget a slot that some shard does not see: whether it is needed is not for people to know."""
        return self._of_who_is_away(own, lambda slot: admin_pb2.ForgetParticipantRequest(participant=slot, who=WHO, why=WHY))

    def _repair(self, own: Random) -> bool:
        """Let the log of a slot in again, as `troth participants repair` does."""
        return self._of_who_is_away(
            own, lambda slot: self.replacing.request(self.cell.store.logs[slot]) if slot not in self.replacing.lost else None
        )

    def order_of(self, own: Random, request: Any) -> None:
        """Have an order of all shards done, while something happens to one of them."""
        self._order(own, own.choice(self.cell.shards), request)

    def owners(self) -> list[ShardProcess]:
        """Whoever serves a shard."""
        return [owner for shard in self.cell.shards if (owner := self._owner(shard)) is not None]

    def _review(self, own: Random) -> bool:
        """Have what is kept forgotten, once a second person has looked."""
        found = self._found(own, lambda txn: txn.state is State.HEURISTIC)
        if found is not None:
            self.reviewing.put(own, found[0], self._forget_request(found[1]))
        return found is not None

    def _of_who_is_away(self, own: Random, request: Callable[[str], Any]) -> bool:
        slot = self._slot(own)
        for owner in self._owners(own):
            known = owner.core._book.participants.get(slot)
            if known is not None and not known.stream and (order := request(slot)) is not None:
                return self._order(own, owner.shard, order)
        return False

    def _drain(self, own: Random) -> bool:
        node = own.choice(list(self.cell.nodes.values()))
        seconds = own.uniform(0.5, 2.0)

        def drained(answer: Any) -> None:
            self.world.reach("operator drained a node")
            self.world.after(seconds, setattr, node, "draining", False)

        self.desk.drain(node, drained)
        return True

    # ---- seeing

    def _list(self, own: Random) -> bool:
        """List everything, page by page, each of another node."""
        self.list(own, lambda rows: None)
        return True

    def _look_up(self, own: Random) -> bool:
        """Look a key up that a client was told committed."""
        keys = sorted(self.judge.keys_told())
        if keys:
            key = own.choice(keys)
            told = self.judge.keys_told()[key]
            self.world.reach("a key was looked up")
            self.list(own, lambda rows: self.judge.looked_up(key, told, rows.values()), key=key)
        return bool(keys)

    def list(self, own: Random, listed: Listed, *, key: str = "") -> None:
        """Have everything listed, of one key or of all."""
        request = admin_pb2.ListTransactionsRequest(finished=True, limit=PAGE_ROWS, key=key)
        self._page(own, request, {}, self.world.now, listed)

    def _page(
        self, own: Random, request: admin_pb2.ListTransactionsRequest, rows: dict[str, Any], began: float, listed: Listed
    ) -> None:  # fmt: skip
        def heard(page: admin_pb2.ListTransactionsResponse) -> None:
            self.judge.page(rows, page.transactions)
            rows.update({row.transaction_id: row for row in page.transactions})
            if page.next_page_token:
                following = admin_pb2.ListTransactionsRequest()
                following.CopyFrom(request)
                following.page_token = page.next_page_token
                self._page(own, following, rows, began, listed)
            else:
                self.world.reach("operator listed a cell")
                self.judge.listed(rows, began, request.key)
                listed(rows)

        self.ask(own, request, heard)

    def see(self, own: Random) -> None:
        """Have everything listed, from here on as what operators know."""
        self.told, self.kept = {}, set()
        self.list(own, self._seen)

    def _seen(self, rows: dict[str, admin_pb2.TransactionSummary]) -> None:
        self.told = {name: row.outcome for name, row in rows.items()}
        self.kept = {name for name, row in rows.items() if row.state == HEURISTIC_STATE}

    def forget_all(self, own: Random) -> Sequence[str]:
        """Forget what is kept, as it was listed last."""
        kept = sorted(self.kept)
        for name in kept:
            self.world.reach("heuristic outcome forgotten")
            self.ask(own, self._forget_request(name))
        return kept


def _is_owed(txn: Transaction) -> bool:
    """Whether COMMIT is owed to somebody of it."""
    return txn.state is State.COMMITTING and any(branch.step is BranchStep.COMMIT_OWED for branch in txn.branches.values())
