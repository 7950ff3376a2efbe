"""Which coordinators a participant has followed, and which one it follows.

A coordinator is its log, not its name: the first log that comes under a name is the one that the name belongs to, durably. Another
one under that name is never followed (a coordinator that was begun anew in an empty directory, a second one that has the default
name): it knows nothing of what the first one decided, and would answer from absence. A coordinator of another name is another
coordinator; what is in doubt with the first one stays so, and new work goes on.

Of one log only the newest life is followed: a lower epoch is a coordinator that was replaced, and an equal one with another
nonce runs on a copy of the log; one that is higher by more than anybody can have started is no life of it at all. How far it
was heard in that life is remembered too, and said in Hello: a coordinator whose log ends before that finds out that it was put
back (`troth.lives`).
"""

from __future__ import annotations

from collections.abc import Iterable

from troth.errors import Reason, RemoteProtocolError
from troth.lives import JUMP_MAX
from troth.v1 import participant_pb2, record_pb2


class Coordinators:
    """What was seen of each coordinator, by its name."""

    def __init__(self) -> None:
        self._seen: dict[str, record_pb2.EpochSeen] = {}
        self.told: dict[str, int] = {}
        """The highest position that each has told in the life that is followed."""

    def replay(self, seen: record_pb2.EpochSeen) -> None:
        """Take over what the log says."""
        name, before = seen.coordinator, self._seen.get(seen.coordinator)
        if before is None:
            self._seen[name] = seen
        elif seen.epoch >= before.epoch:
            log_id = seen.log_id or before.log_id  # what names no log takes the name from none
            self._seen[name] = record_pb2.EpochSeen(coordinator=name, epoch=seen.epoch, log_id=log_id, nonce=seen.nonce)
        if before is None or seen.epoch > before.epoch:
            # It may be lower than before: an operator has accepted that the log was put back.
            self.told[name] = seen.position
        elif seen.epoch == before.epoch:
            self.hear(name, seen.position)

    def hear(self, name: str, position: int) -> None:
        """A coordinator has told a position in the life that is followed."""
        self.told[name] = max(self.told.get(name, 0), position)

    def join(self, other: Coordinators) -> None:
        """Take over how far they were heard by what another log says of the same lives."""
        for name, seen in other._seen.items():
            if self.epoch(name) == seen.epoch:
                self.hear(name, other.told[name])

    def epoch(self, name: str) -> int:
        """The highest epoch of a coordinator; 0 for none."""
        seen = self._seen.get(name)
        return 0 if seen is None else seen.epoch

    def records(self) -> Iterable[record_pb2.EpochSeen]:
        """Everything that the log must say."""
        return [
            record_pb2.EpochSeen(
                coordinator=name, epoch=seen.epoch, log_id=seen.log_id, nonce=seen.nonce, position=self.told[name]
            )
            for name, seen in sorted(self._seen.items())
        ]

    def heard(self) -> list[participant_pb2.Heard]:
        """What Hello says of them."""
        return [
            participant_pb2.Heard(
                coordinator=seen.coordinator, log_id=seen.log_id, epoch=seen.epoch, nonce=seen.nonce, position=seen.position
            )
            for seen in self.records()
        ]

    def check(self, said: record_pb2.EpochSeen) -> bool:
        """Whether something new has to be written down before a coordinator is followed. Raises `RemoteProtocolError` for one
        that is never to be followed (FOREIGN_COORDINATOR), or no more (STALE_EPOCH), or whose epoch cannot be (IMPLAUSIBLE)."""
        seen, name = self._seen.get(said.coordinator), said.coordinator
        if said.epoch - self.epoch(name) > JUMP_MAX:
            text = f"epoch {said.epoch} of {name} cannot be: {self.epoch(name)} was the highest that was seen"
            raise RemoteProtocolError(text, reason=Reason.IMPLAUSIBLE)
        if seen is None:
            return True
        if seen.log_id and said.log_id and seen.log_id != said.log_id:
            logs = f"{seen.log_id[:8]}..., not to {said.log_id[:8]}..."
            raise RemoteProtocolError(f"the coordinator's name {name} belongs to the log {logs}", reason=Reason.FOREIGN_COORDINATOR)
        if said.epoch < seen.epoch:
            raise RemoteProtocolError(f"{name} has epoch {said.epoch}, but epoch {seen.epoch} was seen", reason=Reason.STALE_EPOCH)
        if said.epoch == seen.epoch and seen.nonce and said.nonce and said.nonce != seen.nonce:
            text = f"another process of {name} has epoch {said.epoch}: one of them runs on a copy of the log"
            raise RemoteProtocolError(text, reason=Reason.STALE_EPOCH)
        return (said.epoch, said.log_id, said.nonce) != (seen.epoch, seen.log_id, seen.nonce)
