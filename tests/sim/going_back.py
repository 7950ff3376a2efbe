"""A log goes back in time: somebody puts back what it held a while ago, or begins it anew in an empty directory.

What was lost is lost: whoever had heard of it is contradicted by the very log, and no promise about outcomes can hold. What is
judged is whether it is found out (rule 21): nobody who has heard more of a log than it has, or has done what it lost, is welcomed;
nobody is welcomed who has lost what was acted upon; nothing is told against a lost decision once somebody has come who knew of
more; and what was lost is listed.

The judge looks at Hellos, at records and at what is handed to the network; not at what the cores remember of each other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.sim.clients import ABORTED, COMMITTED
from tests.sim.following import copied, has_identity, identity_of
from tests.sim.roles import CoordinatorProcess, ParticipantProcess
from tests.sim.scene import YES
from tests.sim.world import World
from troth.v1 import participant_pb2, record_pb2

KINDS = ("end of the coordinator's log", "end of the coordinator's log", "empty directory", "copy beside it", "participant's log",
         "participant's log", "participant's file alone")  # fmt: skip
FOUND = "what went back is found out"
COMMITTED_ALONE = participant_pb2.VOTE_KIND_COMMITTED
ABORT = participant_pb2.DECISION_KIND_ABORT
SECONDS_AFTER = 12.0
SYNCS_LOST = (1, 1, 1, 2, 2, 3, 5, 8, 12)
"""How many syncs back; the last few are those of which most is still in doubt somewhere."""


class GoingBack:
    """One strike in a run, and the judge of what follows."""

    def __init__(
        self, world: World, coordinator: CoordinatorProcess, participants: dict[str, ParticipantProcess], own: random.Random
    ) -> None:
        self.world, self.coordinator, self.participants, self.own = world, coordinator, participants, own
        self.kind = own.choice(KINDS)
        self.victim = own.choice([*participants.values()])
        self.met = False
        self.struck_at = self.kept_at = -1.0
        self.cut = 0
        """The position of the log that went back."""
        self.lost: set[str] = set()
        """Transactions whose commit the coordinator's log has lost."""
        self.informed_in: tuple[CoordinatorProcess | None, int] = (None, 0)
        """The process and the life in which a Hello was heard that knows of more than the log. A refused start leaves nothing
        behind, and what a participant was only told, and did not act upon, may be forgotten by all of them."""
        self.said: dict[tuple[str, str], float] = {}
        """When each participant said first, of each transaction, that it is prepared or committed."""
        self.identities: list[tuple[float, Any]] = []
        self.violations: list[str] = []
        for process in [coordinator, *participants.values()]:
            process.disk.history = []
        coordinator.on_hello = self.hello
        self.times: dict[str, list[float]] = {process.name: [] for process in [coordinator, *participants.values()]}

    def plan(self, seconds: float) -> None:
        """When it happens; and from now on it is known when each log was how long."""
        self.world.after(0.0, self._look)
        self.world.after(self.own.uniform(seconds / 3, seconds), self._strike)

    def _look(self) -> None:
        """Remember when each sync was, and who the participants were then."""
        for process in [self.coordinator, *self.participants.values()]:
            history = process.disk.history
            assert history is not None
            self.times[process.name] += [self.world.now] * (len(history) - len(self.times[process.name]))
        victim = self.victim
        if not self.identities or not has_identity(victim, self.identities[-1][1]):
            self.identities.append((self.world.now, identity_of(victim)))
        if self.struck_at < 0:
            self.world.after(0.002, self._look)

    # ---- what is done

    def _strike(self) -> None:
        process = self.victim if self.kind.startswith("participant") else self.coordinator
        history = process.disk.history
        assert history is not None
        self._look()
        if len(history) < 3:
            return
        number = max(0, len(history) - 1 - self.own.choice(SYNCS_LOST))
        self.struck_at, self.kept_at = self.world.now, self.times[process.name][number]
        self.cut = history[number][0][-1][0] if history[number][0] else 0
        if process is self.coordinator:
            kept = [] if self.kind == "empty directory" else history[number][0]
            self.lost = _committed(process.disk.durable) - _committed(kept)
        self.world.reach(f"went back: {self.kind}")
        self.world.say("*", f"WENT BACK {self.kind} {process.name} to {self.cut}")
        _ACTS[self.kind](self, number)

    def _put_back(self, number: int) -> None:
        self.coordinator.crash("and its log is put back")
        self.coordinator.disk.put_back(number)

    def _empty(self, number: int) -> None:
        self.coordinator.crash("and its directory is empty")
        disk = self.coordinator.disk
        assert disk.history is not None
        disk.history.append(([], None))
        disk.put_back(len(disk.history) - 1)
        disk.log_id = "log-anew"

    def _beside(self, number: int) -> None:
        """A second coordinator of its name is started on the copy, and participants come to either."""
        real = self.coordinator
        assert real.disk.history is not None
        disk = real.disk.copy()
        disk.durable = real.disk.history[number][0].copy()
        disk.next_seq = disk.position + 1
        real.stale = CoordinatorProcess(self.world, real.network, real.settings, "old", disk)
        real.stale.welcomed, real.stale.on_hello = real.welcomed, real.on_hello
        real.stale_to_all = True
        real.stale.start()
        for stream in list(real.streams.values()):
            if self.own.random() < 0.7:
                stream.break_()

    def _put_back_participant(self, number: int) -> None:
        victim = self.victim
        victim.crash("and its log is put back")
        victim.disk.put_back(number)
        if self.own.random() < 0.5:
            self.coordinator.crash("and is started again as well")
        if self.kind != "participant's file alone":
            kept = [identity for at, identity in self.identities if at <= self.kept_at] or [self.identities[0][1]]
            victim.incarnation, starts, coordinators = kept[-1]
            victim.starts, victim.coordinators = copied(starts), copied(coordinators)

    # ---- what follows

    def handed_over(self, source: str, field: str, message: Any) -> None:
        """Something was said."""
        if field == "votes" and message.kind in (YES, COMMITTED_ALONE):
            self.said.setdefault((source, message.transaction_id), self.world.now)
        if not (source == self.speaker and self.informed):
            return
        against = (field == "decisions" and message.kind == ABORT and message.transaction_id in self.lost) or (
            field == "got" and message[1].outcome == ABORTED and message[1].transaction_id in self.lost
        )
        if against:
            self.violations.append(f"{FOUND}: ABORT was told of a commit that was lost, when it was known that something was")

    @property
    def informed(self) -> bool:
        """Whether this life of the log that went back knows that it did."""
        process = self.coordinator.stale if self.kind == "copy beside it" else self.coordinator
        return process is not None and self.informed_in == (process, process.life)

    @property
    def speaker(self) -> str:
        """Who has the log that went back."""
        return "old" if self.kind == "copy beside it" else self.coordinator.name

    def hello(self, process: CoordinatorProcess, hello: participant_pb2.Hello) -> None:
        """A Hello reached a coordinator's core."""
        self.met = self.met or (self.struck_at >= 0 and hello.participant == self.victim.name)
        if self.struck_at >= 0 and process.name == self.speaker and _knows_more(process, hello):
            self.informed_in = (process, process.life)

    def welcomed(self, process: CoordinatorProcess, hello: participant_pb2.Hello) -> None:
        """A coordinator answers Hello with Welcome."""
        if _knows_more(process, hello):
            self.violations.append(f"{FOUND}: {hello.participant} was welcomed, who has heard more than {process.name}'s log has")
        if self.struck_at >= 0 and process.name == self.speaker and (gone := self._done_at(hello.participant) & self.lost):
            self.violations.append(f"{FOUND}: {hello.participant} was welcomed, and has done what was lost: {sorted(gone)}")
        if self.struck_at >= 0 and hello.participant == self.victim.name and (lost := self._acted_upon()):
            self.violations.append(f"{FOUND}: {hello.participant} was welcomed, and has lost what was acted upon: {sorted(lost)}")

    def _done_at(self, name: str) -> set[str]:
        """What a participant's log says that it committed."""
        durable = self.participants[name].disk.durable if name in self.participants else []
        records = [record_pb2.ParticipantRecord.FromString(body) for _, body in durable]
        done = [record.branch_finished for record in records if record.HasField("branch_finished")]
        # What it committed in one phase it did by itself, before any log said so, and says it again.
        return {one.transaction_id for one in done if one.outcome == COMMITTED and not (one.forced or one.one_phase)}

    def _acted_upon(self) -> set[str]:
        """What the participant whose log went back has lost of what the coordinator's log says that it did."""
        if not self.kind.startswith("participant"):
            return set()
        kept = {record_of(body) for _, body in self.victim.disk.durable}
        lost = {
            name for (who, name), at in self.said.items() if who == self.victim.name and self.kept_at < at <= self.struck_at
        } - kept  # fmt: skip
        return {name for name in lost if name in _committed(self.coordinator.disk.durable, of=self.victim.name)}

    def judge(self) -> Iterator[str]:
        """What is found at the end."""
        yield from dict.fromkeys(self.violations)
        if self.struck_at < 0 or self.kind == "empty directory":
            return
        book = self.coordinator.core._book
        if self.kind.startswith("participant"):
            row = book.participants.get(self.victim.name)
            # Where both were away until the end of the run nobody could find it out (seed 6676).
            if self.met and self._acted_upon() and (row is None or not row.went_back) and not self.coordinator.stale:
                yield f"{FOUND}: what {self.victim.name} has lost is listed nowhere"
        elif self.kind != "copy beside it" and self.informed and not book.losses:
            yield f"{FOUND}: the coordinator lists nothing that it has lost"


_ACTS = {
    "end of the coordinator's log": GoingBack._put_back,
    "empty directory": GoingBack._empty,
    "copy beside it": GoingBack._beside,
    "participant's log": GoingBack._put_back_participant,
    "participant's file alone": GoingBack._put_back_participant,
}


def record_of(body: bytes) -> str:
    """The transaction of a participant's record."""
    record = record_pb2.ParticipantRecord.FromString(body)
    kind = record.WhichOneof("kind") or ""
    return str(getattr(getattr(record, kind), "transaction_id", ""))


def _committed(records: Any, of: str = "") -> set[str]:
    """The transactions of which a coordinator's records say that they are committed, by a participant."""
    found = set()
    for _, body in records:
        record = record_pb2.CoordinatorRecord.FromString(body)
        if record.HasField("decided") and (not of or of in record.decided.participants):
            found.add(record.decided.transaction_id)
        elif record.HasField("ended") and record.ended.participant and of in ("", record.ended.participant):
            found.add(record.ended.transaction_id)
    return found


def _knows_more(process: CoordinatorProcess, hello: participant_pb2.Hello) -> bool:
    """Whether a Hello has heard of this coordinator what its records do not say."""
    own = process.core._book.epoch
    lives = {own: record_pb2.EpochStarted(epoch=own, nonce=process.core._book.nonce, after=process.disk.position)}
    for _, body in process.disk.durable:
        started = record_pb2.CoordinatorRecord.FromString(body).epoch_started
        if started.epoch:
            lives[started.epoch] = started
    for heard in hello.heard:
        if heard.log_id != process.disk.log_id:
            return True
        life = lives.get(heard.epoch)
        ended = [later.after for epoch, later in sorted(lives.items()) if epoch > heard.epoch]
        if life is None or life.nonce != heard.nonce or (ended and heard.position > ended[0]):
            return True
    return False
