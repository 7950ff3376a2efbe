"""What must hold, whatever went wrong. Each checker is one object, named after what it checks; `TABLE` has them all.

A violation begins with the name of the checker that found it. What the witness finds by itself while it listens (a vote that is
taken back, an abort told from absence, a word to a coordinator of an old epoch) carries the name of its checker as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.sim.clients import ABORTED, COMMITTED, Attempt
from tests.sim.scene import NO, Scene, Witness
from troth.ids import TransactionId
from troth.v1 import common_pb2, record_pb2

Find = Callable[[Scene], Iterator[str]]
HEURISTIC = frozenset({common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD})


@dataclass(frozen=True)
class Checker:
    """One promise, and how a breach of it is found in a scene."""

    name: str
    promise: str
    find: Find

    def __call__(self, scene: Scene) -> Iterator[str]:
        """Every breach, with the checker's name before it."""
        for text in self.find(scene):
            yield f"{self.name}: {text}"


def checker(name: str) -> Callable[[Find], Checker]:
    """Make a checker of a function; its docstring is the promise."""
    return lambda find: Checker(name, (find.__doc__ or "").strip(), find)


def name_of(violation: str) -> str:
    """Which checker found it."""
    return violation.partition(":")[0]


def judge(scene: Scene, table: Iterable[Checker]) -> list[str]:
    """What the checkers of a table find, and what the witness has found."""
    return [*scene.witness.violations, *judge_only(scene, table)]


def judge_only(scene: Scene, table: Iterable[Checker]) -> list[str]:
    """What the checkers of a table find, in the middle of a run."""
    return [text for checker in table for text in checker(scene)]


# ---- atomicity


@checker("AC1 all agree")
def agreement(scene: Scene) -> Iterator[str]:
    """A transaction's effects stand at every participant that owes one, in full, or nowhere; operators' branches apart."""
    for name in scene.expected:
        expected, found = scene.by_protocol(name)
        if found and found != expected:
            yield f"{name} stands at {found}, and should at {expected}"


@checker("AC2 never reversed")
def never_reversed(scene: Scene) -> Iterator[str]:
    """No outcome is reversed. A transaction that changed nothing has no outcome that could be: it leaves no record."""
    for name, outcomes in scene.witness.answers.items():
        if len(outcomes) > 1 and scene.expected.get(name):
            yield f"{name} was answered committed and aborted"


@checker("AC3 commit only if all voted YES")
def all_voted(scene: Scene) -> Iterator[str]:
    """Effects of a transaction over several participants stand only if each of them voted for it."""
    for name, attempt in scene.judged():
        expected, found = scene.by_protocol(name)
        if len(attempt.work) < 2 or not found:
            continue
        for participant in attempt.work:
            # A YES need not be a vote on the wire: a Hello that reports a prepared branch tells it too.
            if expected.get(participant) and scene.witness.votes.get((participant, name)) == NO:
                yield f"{name} committed although {participant} voted NO"


@checker("AC4 without faults commits")
def commits_without_faults(scene: Scene) -> Iterator[str]:
    """In a calm run each transaction commits that the bank did not refuse for want of money, whose first attempt is not out of
    time, and that shares no account or key with one that ran at the same time."""
    if scene.calm:
        for attempt in undisturbed(scene):
            if attempt.outcome != COMMITTED:
                yield f"{attempt.transaction_id} ended {attempt.outcome}, and nothing was in its way"


GRACE_SECONDS = 0.3
"""How long after its client was answered a transaction may still hold locks in a calm run."""


def undisturbed(scene: Scene) -> list[Attempt]:
    """The transactions of a calm run that nothing and nobody was in the way of."""
    attempts = [attempt for _, attempt in scene.judged()]
    refused = {name for participant in scene.participants.values() for name in participant.bank.refused}
    return [
        one
        for one in attempts
        if one.transaction_id not in refused and not one.age and not any(_meet(one, other) for other in attempts)
    ]


def _meet(one: Attempt, other: Attempt) -> bool:
    if one is other or one.began > other.ended + GRACE_SECONDS or other.began > one.ended + GRACE_SECONDS:
        return False
    return bool(one.accounts() & other.accounts()) or (bool(one.key) and one.key == other.key)


# ---- AC5, after healing


@checker("AC5 nothing left")
def nothing_left(scene: Scene) -> Iterator[str]:
    """Once faults stop, everything is decided, and no branch or lock is left over."""
    left = list(scene.coordinator.core._book.live.values())
    if left:
        yield f"the coordinator still has {[(txn.id, txn.state.name, txn.owing()) for txn in left]}"
    for name, process in scene.participants.items():
        if process.core.states():
            yield f"{name} still has {process.core.states()} unfinished branches"
        if process.bank.row_locks:
            yield f"{name} still holds {process.bank.row_locks}"


@checker("AC5 everyone answered")
def everyone_answered(scene: Scene) -> Iterator[str]:
    """Every client was told something of every transaction, once it could be: not of one that was begun by a copy of the log, whose
    lives this log does not know."""
    began = scene.coordinator.core._book.began
    for client in scene.clients:
        for attempt in [*client.pending.values(), *client.asking.values()]:
            if not began(TransactionId.parse(attempt.transaction_id)):
                continue
            yield f"{client.name} was never told of {attempt.transaction_id}"


# ---- what was said


@checker("told is true")
def told_is_true(scene: Scene) -> Iterator[str]:
    """What a client was told of an outcome is what happened, wherever no operator forced otherwise."""
    for name, outcomes in scene.history.told.items():
        if name not in scene.expected:
            continue
        expected, found = scene.by_protocol(name)
        if COMMITTED in outcomes and ABORTED in outcomes and scene.expected[name]:
            yield f"{name} was told committed and aborted"
        if COMMITTED in outcomes and expected and not found:
            yield f"{name} was told committed, and nothing stands"
        if ABORTED in outcomes and found:
            yield f"{name} was told aborted, and stands at {found}"
        if HEURISTIC & outcomes and not scene.touched(name):
            yield f"{name} was told {HEURISTIC & outcomes}, and nobody forced anything"


REFUSED_AGES = ("old", "ahead")


@checker("history is true")
def history_is_true(scene: Scene) -> Iterator[str]:
    """What people are told to be over ended so; in a calm run they are told of whatever a client was told and had begun: not what
    was refused for its age."""
    over = scene.witness.over
    for name, outcomes in over.items():
        if name not in scene.expected or not (COMMITTED in outcomes or ABORTED in outcomes):
            continue
        expected, found = scene.by_protocol(name)
        if COMMITTED in outcomes and expected and not found:
            yield f"{name} is remembered as committed, and nothing stands"
        if ABORTED in outcomes and found:
            yield f"{name} is remembered as aborted, and stands at {found}"
    if scene.calm:
        begun = scene.coordinator.begun
        for name, attempt in scene.judged():
            known = not attempt.key and attempt.outcome in (COMMITTED, ABORTED) and name in begun
            if known and attempt.age not in REFUSED_AGES and attempt.outcome not in over.get(name, ()):
                yield f"{name} was told {attempt.outcome}, and is remembered as {over.get(name)}"


@checker("within the retention nothing expires")
def nothing_expires(scene: Scene) -> Iterator[str]:
    """Nobody is told EXPIRED of what is young: the log knows whatever participants have forgotten, and it has begun."""
    began = scene.coordinator.core._book.began
    for name, outcomes in scene.history.told.items():
        attempt = scene.history.attempts.get(name)
        if not began(TransactionId.parse(name)):
            continue
        if common_pb2.OUTCOME_EXPIRED in outcomes and not scene.forgetful and not (attempt and attempt.age):
            yield f"{name} was told expired, and nothing is so old"


@checker("ages")
def ages(scene: Scene) -> Iterator[str]:
    """What began before the retention, or too far in the future, is never run."""
    for name, attempt in scene.judged():
        if attempt.age == "ahead" and scene.coordinator.was_far_ahead:
            continue  # it was not ahead of the coordinator's own clock
        if attempt.age in REFUSED_AGES and (scene.by_protocol(name)[1] or attempt.outcome == COMMITTED):
            yield f"{name} ran, and its first attempt was {attempt.age}"


# ---- effects


@checker("exactly once")
def exactly_once(scene: Scene) -> Iterator[str]:
    """Each operation of a transaction took effect once, and each key committed at most once."""
    by_key: dict[str, set[str]] = {}
    for name, attempt in scene.judged():
        for participant, process in scene.participants.items():
            changes = process.bank.rows.applied.get(name, [])
            allowed = len(attempt.work.get(participant, ()))
            if len(changes) > allowed:
                yield f"{name} changed {len(changes)} rows at {participant}, and had {allowed} operations"
        if attempt.key and scene.by_protocol(name)[1]:
            by_key.setdefault(attempt.key, set()).add(name)
    for key, names in by_key.items():
        if len(names) > 1:
            yield f"the key {key} committed {sorted(names)}"


@checker("conservation")
def conservation(scene: Scene) -> Iterator[str]:
    """No money is made or lost; what operators tore apart is missing by exactly what stands of it."""
    total = sum(sum(process.bank.rows.accounts.values()) for process in scene.participants.values())
    torn = sum(sum(scene.applied(name).values()) for name in scene.expected if scene.forced(name))
    if total != scene.money + torn:
        yield f"{total} in all, and there were {scene.money}, with {torn} by operators' hands"


@checker("isolation")
def isolation(scene: Scene) -> Iterator[str]:
    """Nobody reads what is not decided."""
    for process in scene.participants.values():
        yield from process.bank.violations


@checker("protocol")
def nobody_broke_the_protocol(scene: Scene) -> Iterator[str]:
    """No core met an event that its table does not have."""
    for process in [scene.coordinator, *scene.participants.values()]:
        for text in process.violations:
            yield f"{process.name}: {text}"


# ---- epochs


@checker("stale epochs write nothing")
def stale_epochs(scene: Scene) -> Iterator[str]:
    """The log's epochs only grow, and a coordinator of an old epoch decided nothing, not even in its own copy of the log."""
    lives = set()
    for _, body in scene.coordinator.disk.durable:
        record = record_pb2.CoordinatorRecord.FromString(body)
        if record.HasField("epoch_started"):  # the cleaner writes them again: each says itself where it began
            lives.add((record.epoch_started.after, record.epoch_started.epoch, record.epoch_started.nonce))
    for (_, before, _), (_, epoch, _) in pairwise(sorted(lives)):
        if epoch <= before:
            yield f"epoch {epoch} was written behind epoch {before}"
    stale = scene.coordinator.stale
    for _, body in stale.disk.durable if stale is not None else ():
        record = record_pb2.CoordinatorRecord.FromString(body)
        kind = record.WhichOneof("kind") or ""
        if kind in OUTCOMES and getattr(record, kind).transaction_id not in stale.copied:
            yield f"a coordinator of an old epoch wrote {kind} of {getattr(record, kind).transaction_id}"


OUTCOMES = ("decided", "ended", "key_opened", "heuristic")
"""Records that a coordinator without participants has no reason to write."""

PROMISES = (
    agreement, never_reversed, all_voted, told_is_true, exactly_once, conservation, nothing_left, nothing_expires, isolation,
)  # fmt: skip
"""What both levels of the simulator are judged by."""

__all__ = ["PROMISES", "Checker", "Scene", "Witness", "checker", "judge", "name_of"]
