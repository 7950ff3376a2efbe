"""What participants hold, as their files or databases say it: branches, and how each is or ended."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from coordinator.backup import copying
from troth.errors import LogForeign, Reason, RequestError
from troth.ids import TransactionId
from troth.log import offline
from troth.v1 import common_pb2, participant_pb2, record_pb2


class Fate(Enum):
    """How a branch is, or has ended."""

    PREPARED = "prepared"
    COMMITTED = "committed"
    ABORTED = "rolled back"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of one participant."""

    participant: str
    transaction: str
    """Its id; in a database it may be a digest of it."""
    fate: Fate
    peers: tuple[str, ...] = ()
    """The participants of its transaction, as far as it was told them."""
    forced: str = ""
    """Who forced its end, and why, also when people have forgotten that."""
    gid: str = ""
    """Its name, as the statements of the database's server take it."""
    keys: tuple[str, ...] = ()
    """What it has locked, as far as its record says so."""
    first_attempt_ms: int = 0
    marker: bool = False
    """Whether a marker row is all that tells of it."""
    proves_abort: bool = False
    """Whether its rollback proves that no COMMIT was decided."""
    one_phase: bool = False
    """Whether it committed in one phase: of such a commit the coordinator need not have a record."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one file or database holds."""

    source: str
    participant: str
    """Empty for a database, which several may use."""
    branches: tuple[Branch, ...]


def read_file(path: Path) -> Evidence:
    """What the log of a participant says, whether its process runs or not. Raises `LogError`."""
    with tempfile.TemporaryDirectory(prefix="troth-evidence-") as directory:
        copy = Path(directory) / path.name
        copying.copy_log(path, copy)
        dumped = offline.dump(copy)
    if dumped.identity.role == "coordinator":
        what = f"{path} is the log of the coordinator {dumped.identity.name}, and a participant's is asked for"
        raise LogForeign(Reason.LOG_FOREIGN, what)
    name = dumped.identity.name
    found: dict[str, Branch] = {}
    for record in dumped.records:
        assert isinstance(record.message, record_pb2.ParticipantRecord)
        _apply(name, record.message, found)
    return Evidence(str(path), name, tuple(found.values()))


def _apply(name: str, record: record_pb2.ParticipantRecord, found: dict[str, Branch]) -> None:
    """One record; whoever has finished is over, whatever was prepared before."""
    if record.HasField("branch_prepared"):
        said = record.branch_prepared
        peers = tuple(participant_pb2.Peers.FromString(said.peers).participants)
        keys = (*said.work.keys, *said.work.shared_keys)
        found[said.transaction_id] = Branch(
            name, said.transaction_id, Fate.PREPARED, peers, gid=said.work.resource_branch, keys=keys,
            first_attempt_ms=said.first_attempt_ms,
        )  # fmt: skip
    elif record.HasField("branch_finished"):
        over = record.branch_finished
        fate = Fate.COMMITTED if over.outcome == common_pb2.OUTCOME_COMMITTED else Fate.ABORTED
        forced = f"{over.who}: {over.why}" if over.forced else ""
        forced = f"forgotten since: {over.why}" if over.by_hand else forced
        before = found.get(over.transaction_id)
        found[over.transaction_id] = Branch(
            name, over.transaction_id, fate, before.peers if before else (), forced, over.resource_branch,
            proves_abort=over.proves_abort, one_phase=over.one_phase,
        )  # fmt: skip
    elif record.HasField("branch_parked"):
        parked = record.branch_parked
        found[parked.transaction_id] = Branch(name, parked.transaction_id, Fate.PARKED, forced=parked.why)


def coordinator_of(transaction: str) -> str:
    """Whose transaction it is; empty for a digest."""
    try:
        return TransactionId.parse(transaction).coordinator
    except RequestError:
        return ""


def unknown_to(known: Iterable[str], coordinator: str, peers: Iterable[Evidence]) -> dict[str, list[Branch]]:
    """Of a coordinator's transactions that it does not know of, what the others hold."""
    there = set(known)
    found: dict[str, list[Branch]] = {}
    for branch in (branch for peer in peers for branch in peer.branches):
        if branch.transaction not in there and coordinator_of(branch.transaction) == coordinator:
            found.setdefault(branch.transaction, []).append(branch)
    return found
