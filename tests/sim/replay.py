"""Every prefix of a durable log is a log: recovery from it succeeds, and loses nothing that was said by then.

While a run goes on, some of the batches are looked at in the moment in which they become durable and before anything of them is
said: the log as it was, with none, some or all of the batch's records behind it, is read by a fresh core. What the process has said
until now must be in what that comes to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from coordinator.core.core import CoordinatorCore
from coordinator.core.model import BranchStep
from coordinator.core.model import State as Transacted
from participant_sdk.core.branches import State
from participant_sdk.core.core import ParticipantCore
from tests.sim.checkers import checker
from tests.sim.clients import COMMITTED
from tests.sim.disk import Records
from tests.sim.process import Process
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.scene import COMMIT, YES, Scene, Witness
from troth.errors import TrothError
from troth.ids import TransactionId

SHARE = 0.05
"""Of the batches that are looked at."""
KEPT = frozenset({State.PREPARED, State.COMMITTING, State.FORCED_COMMIT, State.FORCED_ABORT, State.PARKED})
ENDED = KEPT | {State.COMMITTED, State.ABORTED, State.ABORTING}
COMMITS = frozenset({State.COMMITTED, State.COMMITTING, State.FORCED_COMMIT, State.FORCED_ABORT})
HOLDS = (Transacted.COMMITTING, Transacted.HEURISTIC)


class Prefixes:
    """Looks at prefixes of the logs of a run; `violations` is what it found."""

    def __init__(self, seed: int, scene: Scene) -> None:
        self._random = random.Random(seed ^ 0x5EED)
        self._scene = scene
        self.violations: list[str] = []
        processes: list[Process] = [scene.coordinator, *scene.participants.values()]
        for process in processes:
            process.disk.sample = partial(self._sample, process)

    def _sample(self, process: Process, durable: Records, added: Records, drops: bool) -> None:
        if self._random.random() >= SHARE:
            return
        cut = self._random.choice([0, len(added)]) if drops else self._random.randint(0, len(added))
        records = [body for _, body in (*durable, *added[:cut])]
        try:
            core = _read(process, records)
        except (TrothError, AssertionError, KeyError) as error:
            self.violations.append(f"replay: {process.name} cannot recover from a prefix of {len(records)} records: {error!r}")
            return
        look = self._coordinator if isinstance(core, CoordinatorCore) else self._participant
        for text in look(core, process.name):  # type: ignore[arg-type]  # each with its own core
            self.violations.append(f"replay: {process.name}, from {len(records)} records: {text}")
        if self._random.random() < 0.3 and _state(core) != _state(_read(process, records + records)):
            self.violations.append(f"replay: {process.name} comes to another state when it reads its log twice")

    def _coordinator(self, core: CoordinatorCore, _: str) -> Iterator[str]:
        """Whoever was told COMMIT, and has not acknowledged it, will be told again; a key that was handed over is held."""
        book, witness = core._book, self._scene.witness
        for name, told in witness.commit_told.items():
            if self._scene.touched(name):
                continue
            txn, done = book.live.get(name), book.finished.get(name)
            if txn is not None and txn.state in HOLDS:
                for one in told:
                    if txn.branches[one].step is BranchStep.OVER and (one, name) not in witness.acknowledged:
                        yield f"{one} was told COMMIT of {name}, has not acknowledged it, and is owed nothing"
            elif not (done is not None and done.outcome == COMMITTED) and not self._is_dropped(core, name):
                yield f"COMMIT of {name} was said, and it is not known"
        for name, one in witness.opened.items():
            if name not in book.live and name not in book.finished and not self._scene.touched(name):
                yield f"{name} was handed over to {one} with a key, and is not known"

    def _is_dropped(self, core: CoordinatorCore, name: str) -> bool:
        # The log says so by the id: the time of a first attempt may be ahead of the horizon, as its client's clock was.
        return core._book.dropped.covers(TransactionId.parse(name))

    def _participant(self, core: ParticipantCore, one: str) -> Iterator[str]:
        """Whoever voted YES still can do either; what was acknowledged, or committed alone, has ended so."""
        witness = self._scene.witness
        branches = core._m.branches
        for (voter, name), vote in witness.votes.items():
            if voter == one and vote == YES and one not in self._scene.forced(name):
                state = branches[name].state if name in branches else State.UNSEEN
                yield from self._voted(witness, core, (one, name), state)
        for voter, name in witness.committed_alone:
            if voter == one:
                state = branches[name].state if name in branches else State.UNSEEN
                if state not in COMMITS and not _is_covered(witness, core, (one, name)):
                    yield f"{name} was committed alone and told so, and it is {state.name}"

    def _voted(self, witness: Witness, core: ParticipantCore, branch: tuple[str, str], state: State) -> Iterator[str]:
        told = witness.told.get(branch, set())
        if not told and state not in KEPT:
            yield f"{branch[1]} was voted YES, and it is {state.name}"
        elif COMMIT in told and state not in ENDED and not _is_covered(witness, core, branch):
            yield f"{branch[1]} was voted YES and told COMMIT, and it is {state.name}"
        elif branch in witness.acknowledged and state not in COMMITS and not _is_covered(witness, core, branch):
            yield f"COMMIT of {branch[1]} was acknowledged, and it is {state.name}"


def _is_covered(witness: Witness, core: ParticipantCore, branch: tuple[str, str]) -> bool:
    """Whether the watermark lets the participant have forgotten it."""
    epoch = int(branch[1].split(".")[1])
    return (epoch, witness.orders.get(branch, 0)) < core._m.watermark_of("c1").durable


def _read(process: Process, records: list[bytes]) -> Any:
    assert isinstance(process, CoordinatorProcess | ParticipantProcess)
    core = process.fresh_core()
    core.recover(records, process.world.instant(), process.opened())
    return core


def _state(core: Any) -> object:
    """What recovery comes to."""
    if isinstance(core, CoordinatorCore):
        book = core._book
        live = sorted((name, txn.state.name, txn.missing) for name, txn in book.live.items())
        return live, list(book.finished), list(book.keys), book.epoch
    return sorted((name, branch.state.name) for name, branch in core._m.branches.items())


@checker("replay")
def recovery_repeats(scene: Scene) -> Iterator[str]:
    """A log that is read twice comes to the same as once."""
    for process in [scene.coordinator, *scene.participants.values()]:
        _, bodies = process.disk.read()
        once, twice = (_state(_recovered(process, records)) for records in (bodies, bodies + bodies))
        if once != twice:
            yield f"{process.name} comes to {once} from its log, and to {twice} from reading it twice"


def _recovered(process: Process, records: list[bytes]) -> Any:
    core = process.make_core()
    core.recover(records, process.world.instant(), process.opened())
    return core
