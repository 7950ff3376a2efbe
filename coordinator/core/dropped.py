"""Which commits the retention may have dropped, told by their ids.

A participant that has forgotten a branch says that nothing stands there, and that is taken for "it did not commit" only because the
log would know of the commit. Of what the log has dropped nobody is asked. The time of a first attempt does not tell what that is:
the client says it, and it may be another one than it was. The id does: a session numbers its transactions one after the other, so
whatever has a lower number than a commit that was dropped is older than that.

How far branches of each *participant* were dropped is kept besides: a log that takes its name over cannot be asked about those (see
`recalling`).
"""

from __future__ import annotations

from collections.abc import Iterable

from troth.ids import TransactionId
from troth.v1 import record_pb2

SESSIONS_MAX = 256
"""Sessions that are kept apart; of older ones all that they ever numbered counts as dropped."""

Session = tuple[int, int, str]
"""Epoch, number and nonce."""
Behind = tuple[int, int, int]
"""The epoch and order behind a participant's newest branch that was dropped, and when the last of those ended, by the clock."""


class Dropped:
    """For each session the highest number of a commit that was dropped."""

    __slots__ = ("_all_behind", "_behind", "_highest", "_through")

    def __init__(self) -> None:
        self._highest: dict[Session, int] = {}
        self._through = (-1, -1)
        """The last epoch and session of which everything counts as dropped."""
        self._behind: dict[str, Behind] = {}
        """How far branches of each participant were dropped."""
        self._all_behind: Behind = (0, 0, 0)
        """The same of everybody, where the log does not say whose they were."""

    def add(self, transaction_ids: Iterable[str]) -> record_pb2.Horizon:
        """These commits are about to be dropped; returns what a record has to say of it."""
        touched: dict[Session, int] = {}
        for transaction_id in transaction_ids:
            parsed = TransactionId.parse(transaction_id)
            place = (parsed.epoch, parsed.session, parsed.nonce)
            touched[place] = max(touched.get(place, 0), parsed.number)
        for place, number in touched.items():
            self._note(place, number)
        return self._said({place: self._highest[place] for place in touched if place in self._highest})

    def replay(self, horizon: record_pb2.Horizon) -> None:
        """What a record said."""
        self._through = max(self._through, (horizon.through_epoch - 1, horizon.through_session - 1))
        for one in horizon.sessions:
            self._note((one.epoch, one.session, one.nonce), one.number)
        for branches in horizon.branches:
            self._note_behind(branches.participant, (branches.epoch, branches.order, branches.ended_ms))
        self.count_branches_before(horizon.all_before_epoch, horizon.all_ended_ms)

    def count_all_before(self, epoch: int) -> None:
        """The log does not say what was dropped of earlier epochs: anything may have been."""
        self._through = max(self._through, (epoch, -1))

    def add_branch(self, participant: str, epoch: int, order: int, ended_ms: int) -> None:
        """A participant's branch of a commit is about to be dropped."""
        self._note_behind(participant, (epoch, order + 1, ended_ms))

    def count_branches_before(self, epoch: int, ended_ms: int) -> None:
        """Whose commits were dropped, or lost, of earlier epochs, is not known: anybody's may have been, until then."""
        self._all_behind = _later(self._all_behind, (epoch, 0, ended_ms))

    def behind(self, participant: str) -> Behind:
        """How far a participant's branches were dropped; zeros when none was."""
        return _later(self._behind.get(participant, self._all_behind), self._all_behind)

    def forget(self, participant: str) -> None:
        """Nobody has this name any more."""
        self._behind.pop(participant, None)

    def branches(self, participants: Iterable[str]) -> record_pb2.Horizon:
        """What a record has to say of these participants' branches."""
        horizon = record_pb2.Horizon(
            names_branches=True, all_before_epoch=self._all_behind[0], all_ended_ms=self._all_behind[2]
        )
        for name in participants:
            epoch, order, ended_ms = self._behind[name]
            horizon.branches.add(participant=name, epoch=epoch, order=order, ended_ms=ended_ms)
        return horizon

    def record(self, *, clock_set: bool = False) -> record_pb2.Horizon:
        """All of it."""
        horizon = self._said(self._highest)
        horizon.MergeFrom(self.branches(self._behind))
        horizon.clock_set = clock_set
        return horizon

    def covers(self, parsed: TransactionId) -> bool:
        """Whether a transaction may be one of those that were dropped."""
        if (parsed.epoch, parsed.session) <= self._through:
            return True
        return parsed.number <= self._highest.get((parsed.epoch, parsed.session, parsed.nonce), 0)

    def _note(self, place: Session, number: int) -> None:
        self._highest[place] = max(self._highest.get(place, 0), number)
        while len(self._highest) > SESSIONS_MAX:
            lowest = min(self._highest)
            del self._highest[lowest]
            self._through = max(self._through, lowest[:2])

    def _note_behind(self, participant: str, behind: Behind) -> None:
        self._behind[participant] = _later(self._behind.get(participant, behind), behind)

    def _said(self, sessions: dict[Session, int]) -> record_pb2.Horizon:
        horizon = record_pb2.Horizon(
            names_sessions=True, through_epoch=self._through[0] + 1, through_session=self._through[1] + 1
        )
        for (epoch, session, nonce), number in sessions.items():
            horizon.sessions.add(epoch=epoch, session=session, nonce=nonce, number=number)
        return horizon


def _later(one: Behind, other: Behind) -> Behind:
    """As far as both, and until the later time."""
    return *max(one[:2], other[:2]), max(one[2], other[2])
