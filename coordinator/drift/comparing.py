"""Comparing what a coordinator says with what participants hold: each drift in words, with the correction.

A correction is *safe* only where the outcome is decided and known, and it does what that outcome says, whatever happens meanwhile:
outcomes never change. What would need a guess is an order that waits for a second person, or only told.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.drift.evidence import Branch, Evidence, Fate

COMMITTED, ABORTED = "COMMITTED", "ABORTED"
BROKEN = ("MIXED", "HAZARD")
STRANDED = "STRANDED"
"""In place of a state: a participant is in doubt, and the log can say nothing of it."""
OLD_OR_LOST = "nothing, if it is older than the retention; else the coordinator's log went back: `troth participants`"


class Kind(Enum):
    """What kind of drift it is."""

    NOT_APPLIED = "decided, not applied"
    ORPHANED = "orphaned branch"
    CONTRADICTED = "contradicts the decision"
    UNKNOWN = "applied, unknown to the coordinator"
    UNDECIDABLE = "in doubt, and nobody knows here"
    MARKER = "marker without a decision"
    PARKED = "could not be finished"
    GAP = "a log that went back"
    OWED = "owed by somebody who is away"
    BROKEN = "broken atomicity"


@dataclass(frozen=True, slots=True)
class Known:
    """What the coordinator says of a transaction."""

    state: str = ""
    """Its state or, when it is over, its outcome; empty when nothing is known."""
    outcome: str = ""
    participants: tuple[str, ...] = ()
    owing: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference, and what to do."""

    kind: Kind
    participant: str
    transaction: str
    what: str
    """In words."""
    fix: str
    """What to do, in words or as a command."""
    source: str = ""
    branch: Branch | None = None
    safe: bool | None = None
    """Whether finishing the branch where it is prepared, with commit (true) or rollback (false), is provably right."""
    order: bool | None = None
    """Commit or rollback, as an order that a second person has to approve."""


Ask = Callable[[str], Known]


def compare(found: Sequence[Evidence], ask: Ask, connected: Container[str]) -> Iterator[Drift]:
    """All drifts of what participants hold."""
    for evidence in found:
        for branch in evidence.branches:
            drift = _of_branch(branch, evidence.source, ask, connected, found)
            if drift is not None:
                yield drift


def _of_branch(
    branch: Branch, source: str, ask: Ask, connected: Container[str], found: Sequence[Evidence]
) -> Drift | None:
    known = ask(branch.transaction)
    if branch.fate is Fate.PREPARED:
        return _prepared(branch, source, known, branch.participant in connected, found)
    if branch.fate is Fate.PARKED:
        fix = f"troth txn explain {branch.transaction}"
        return Drift(Kind.PARKED, branch.participant, branch.transaction, f"its branch is parked: {branch.forced}", fix, source)
    return _ended(branch, source, known)


def _prepared(branch: Branch, source: str, known: Known, connected: bool, found: Sequence[Evidence]) -> Drift | None:
    """A branch in doubt. What a participant that is connected will be told needs nobody."""
    name, transaction = branch.participant, branch.transaction
    if known.outcome in BROKEN:
        what = f"its branch is prepared, and the transaction is {known.outcome}"
        return Drift(Kind.CONTRADICTED, name, transaction, what, f"troth txn explain {transaction}", source, branch)
    if known.state in ("PROVING", STRANDED):
        return _undecidable(branch, source, found)
    if known.outcome in (COMMITTED, ABORTED):
        return _decided(branch, source, known, connected)
    if known.state or connected:
        return None  # under way; or it asks, and is told
    what = f"its branch is prepared, and {name} is not connected; the coordinator says: {known.words}"
    fix = f"start {name}: it asks, and is told. If it never comes back: `troth log resolve`, on its machine"
    return Drift(Kind.ORPHANED, name, transaction, what, fix, source, branch)


def _decided(branch: Branch, source: str, known: Known, connected: bool) -> Drift | None:
    """Prepared, and decided: whoever finishes it now does what everybody will."""
    name, commit = branch.participant, known.outcome == COMMITTED
    owes = name in known.owing
    if connected and owes:
        return None  # it is being told
    word = "committed" if commit else "rolled back"
    if commit and not owes and known.state == COMMITTED:
        said = f"{name} has acknowledged that, so its database or log has gone back"
    else:
        said = f"{name} is {'connected and asks' if connected else 'not connected'}"
    what = f"its branch is prepared, {known.outcome} is decided, and {said}"
    safe = commit if branch.gid and not connected else None
    kind = Kind.NOT_APPLIED if commit else Kind.ORPHANED
    return Drift(kind, name, branch.transaction, what, f"start {name}; its branch is {word} then", source, branch, safe)


def _undecidable(branch: Branch, source: str, found: Sequence[Evidence]) -> Drift:
    """The coordinator cannot say. What other participants' own logs say may prove it; a person looks at that."""
    name, transaction = branch.participant, branch.transaction
    peers = [
        one for evidence in found for one in evidence.branches
        if one.transaction == transaction and one.participant != name and not one.forced and not one.marker
    ]  # fmt: skip
    commits = sorted(one.participant for one in peers if one.fate is Fate.COMMITTED)
    aborts = sorted(one.participant for one in peers if one.fate is Fate.ABORTED and one.proves_abort)
    what = "it is in doubt, and the coordinator's log can say nothing of it"
    if bool(commits) == bool(aborts):
        fix = "bring its other participants back, or name their logs with --file; then by hand: how-to/operate-a-coordinator"
        return Drift(Kind.UNDECIDABLE, name, transaction, what, fix, source, branch)
    word = "commit" if commits else "abort"
    what = f"{what}; the log of {', '.join(commits or aborts)} proves {word.upper()}"
    fix = f'troth txn resolve {transaction} {word} --participant {name} --why "the log of {(commits or aborts)[0]} proves it"'
    return Drift(Kind.UNDECIDABLE, name, transaction, what, fix, source, branch, order=bool(commits))


def _ended(branch: Branch, source: str, known: Known) -> Drift | None:
    """A branch that is over, beside what was decided."""
    name, transaction, ended = branch.participant, branch.transaction, branch.fate.value
    # A branch that nobody has named is no part of the transaction: it was prepared early, and is rolled back whatever was decided.
    decided = known.outcome if known.outcome in (COMMITTED, ABORTED) and name in known.participants else ""
    explain = f"troth txn explain {transaction}"
    if decided and (branch.fate is Fate.COMMITTED) != (decided == COMMITTED):
        forced = f", by force ({branch.forced})" if branch.forced else ""
        what = f"it is {ended} there{forced}, and {decided} is decided"
        return Drift(Kind.CONTRADICTED, name, transaction, what, f"{explain}; repair the data by hand", source, branch)
    if branch.fate is not Fate.COMMITTED or known.state or branch.one_phase:
        return None
    if branch.marker:
        what = f"a marker row says that it committed, and the coordinator says: {known.words}"
        return Drift(Kind.MARKER, name, transaction, what, OLD_OR_LOST, source, branch)
    what = f"it is committed there, and the coordinator says: {known.words}"
    return Drift(Kind.UNKNOWN, name, transaction, what, OLD_OR_LOST, source, branch)
