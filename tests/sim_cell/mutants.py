"""Known-bad changes to who owns what in a cell, and to what is believed of it; each must be caught by a run of this level."""

from __future__ import annotations

from typing import Any

from tests.sim.mutant import Mutant, adder, to
from tests.sim_cell import mutants_operators, mutants_replacing
from tests.sim_cell.clients import CellWorkload
from tests.sim_cell.nodes import Cell, ShardProcess
from tests.sim_cell.owned import Host, Owned
from tests.sim_cell.services import Worker
from tests.sim_cell.store import OwnedLog, Store
from troth.lives import Lives

MUTANTS: list[Mutant] = []

_mutant = adder(MUTANTS)


# ---- ownership


def _always(self: Any, *arguments: Any) -> bool:
    return True


def _never(self: Any, *arguments: Any) -> bool:
    return False


def _same_epoch(self: Store, log: OwnedLog) -> int:
    return max(1, log.epoch)


def _read_before(self: Store, log: OwnedLog) -> Any:
    return (log.history[-2:] or [([], 0)])[0][0].copy()


_mutant("the fence is dropped", "9", (Store, "owns", to(_always)))
_mutant("a claim raises no epoch", "9", (Store, "next_epoch", to(_same_epoch)))
_mutant("a claim reads before it raises the epoch", "6", (Store, "read", to(_read_before)))
_mutant("a slot is adopted twice", "9", (Store, "lives", to(_never)), (Store, "next_epoch", to(_same_epoch)))
_mutant("nobody adopts", "8", (Worker, "may_adopt", to(lambda self, log: not self._own and not self.store.lives(log))))


def _sent_again(original: Any) -> Any:
    def answered(self: Owned, copies: Any, whole: Any, answer: Any) -> None:
        if answer is None:
            self.carry(copies, whole[len(copies) :], 0)
        else:
            original(self, copies, whole, answer)

    return answered


_mutant("an append whose answer is lost is sent again", "17", (Owned, "_answered", _sent_again))


# ---- leases


_mutant(
    "the lease is believed: an owner that was stopped speaks, and its appends are not fenced", "9",
    (Owned, "may_speak", to(_always)), (Store, "owns", to(_always)),
)  # fmt: skip
_mutant(
    "an owner that was stopped past its lease speaks without asking", "9",
    (Owned, "may_speak", to(_always)), (Owned, "hold", to(_always)),
)  # fmt: skip


# ---- where a key, and a shard, is


def _any_client(self: CellWorkload, attempt: Any) -> Any:
    return attempt.random.choice(self.clients)


_mutant("a key is run where it comes to", "a key commits once in a cell", (ShardProcess, "is_elsewhere", to(_never)))
_mutant(
    "a key is routed by the node that is asked", "a key commits once in a cell", (CellWorkload, "pick", to(_any_client)),
    (ShardProcess, "is_elsewhere", to(_never)),
)  # fmt: skip


def _whatever_is_there(original: Any) -> Any:
    def at(self: Cell, address: str, shard: str) -> Any:
        node = self.nodes.get(address)
        if node is None or not node.alive or node.paused_until > self.world.now:
            return None
        return node.cores.get(shard) or next(iter(node.cores.values()), None)

    return at


_mutant("a directory is trusted: who is dialled is taken for the shard", "hints are no proof", (Cell, "at", _whatever_is_there))


# ---- stores that lost something


_mutant("what a process knows to be durable is not compared", "21", (Host, "is_gone", to(_never)))
_mutant("who has heard more of a log than it has is welcomed", "21", (Lives, "lacks", to(_never)))

MUTANTS += mutants_operators.MUTANTS
MUTANTS += mutants_replacing.MUTANTS
