"""A coordinator and two participants in one process, without clocks, streams or files: what they cost in calls and memory.

Batches are of fixed size, so all counts are exact: nothing here depends on time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from coordinator.core import effects as coordinator_effects
from coordinator.core import events as coordinator_events
from coordinator.core.core import CoordinatorCore
from coordinator.core.settings import CoreSettings
from participant_sdk import LogResource
from participant_sdk.core import effects as participant_effects
from participant_sdk.core import events as participant_events
from participant_sdk.core.branches import Config
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.work import Execute, ResourceKind
from participant_sdk.registry import Registry
from participant_sdk.resources.log_only import LogBranch
from troth.ready import Core, Instant, Opened
from troth.seals import seal_key, sealed
from troth.v1 import client_pb2, common_pb2, participant_pb2
from troth.values import encode_arguments

NOW = Instant(1000.0, 1_700_000_000_000)
NONCE = "abcdef01"
SESSION = f"c1.1.{NONCE}.1"
MESSAGES = ("prepares", "votes", "decisions", "acknowledgements")


class Role:
    """One core, its inbox, and a log that is durable at once; each turn with a forced append is one sync."""

    def __init__(self, core: Core, perform: Callable[[Any], None]) -> None:
        self.core = core
        self.inbox: list[Any] = []
        self.syncs = self.forced = self.position = 0
        self._perform = perform
        core.recover([], NOW, Opened("log", 0))

    def settle(self) -> None:
        """Turn until nothing waits."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """One turn of an engine; whether it had something to do."""
        events, self.inbox = self.inbox, []
        for event in events:
            self.core.step(event, NOW)
        ready = self.core.take_ready()
        for effect in ready.effects:
            self._perform(effect)
        forced = sum(append.force for append in ready.appends)
        self.forced += forced
        self.syncs += bool(forced)
        self.position += len(ready.appends)
        for append in ready.appends:
            if append.event is not None:
                self.inbox.append(append.event)
            for effect in append.effects:
                self._perform(effect)
        return bool(events or ready)


class Member:
    """A log-only participant with one operation."""

    def __init__(
        self, name: str, stream: int, to_coordinator: Callable[[Member, Any], None], coordinator: Role
    ) -> None:  # fmt: skip
        self._coordinator = coordinator
        self.name = name
        self.stream = stream
        self.wire: list[tuple[str, Any]] = []
        self._voted: list[int] = []
        self._say = to_coordinator
        self._operations = Registry()
        self._operations.add(note, locks=[])
        self._resource = LogResource()
        self._resource.bind(name, self._operations)
        self.core = ParticipantCore(Config(participant=name, resource=ResourceKind.LOGGED, keeps_identity=True))
        self.role = Role(self.core, self._perform)
        self._resource.driver(lambda event: self.role.inbox.append(event))

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, participant_effects.Send):
            self._say(self, effect.message)
        elif isinstance(effect, Execute):
            self._resource.invoke(effect)
        elif isinstance(effect, participant_effects.EarlyVoted):
            self._voted.append(effect.operation_count)

    def call(self, transaction_id: str, number: int) -> None:
        """An interactive call of the service, to its answer."""
        operation = common_pb2.Operation(name="note", arguments=encode_arguments({"account": number, "amount": 2}))
        keys = self._operations.keys([operation])
        call = participant_events.Call(object(), transaction_id, "1/0", NOW.wall_ms, operation, keys, True)
        self.role.inbox.append(call)
        self.role.settle()

    def last_call(self, transaction_id: str) -> common_pb2.SealedVote:
        """The vote of who was called for the last time."""
        self.role.inbox.append(participant_events.LastCall(object(), transaction_id))
        self.role.settle()
        vote = participant_pb2.EarlyVote(transaction_id=transaction_id, incarnation=1, operation_count=self._voted.pop())
        return sealed(seal_key(NONCE.encode(), self.name, f"log-{self.name}"), vote)

    def hear(self) -> None:
        """Take what the coordinator has sent."""
        wire, self.wire = self.wire, []
        position = self._coordinator.position
        for field, message in wire:
            if field == "prepares":
                operations = tuple(message.operations)
                keys = self._operations.keys(operations)
                self.role.inbox.append(participant_events.PrepareReceived(1, message, operations, keys, position=position))
            else:
                self.role.inbox.append(participant_events.FromCoordinator(1, message, position))
        self.role.settle()


def note(branch: LogBranch, *, account: int, amount: int) -> int:
    """The operation."""
    return amount


class Pair:
    """A coordinator and its participants, `left` and `right`."""

    def __init__(self) -> None:
        self.core = CoordinatorCore(CoreSettings(), "c1", NONCE, NONCE.encode())
        self.answers: list[client_pb2.Answer] = []
        self.coordinator = Role(self.core, self._perform)
        names = ("left", "right")
        self.members = {name: Member(name, stream, self._said, self.coordinator) for stream, name in enumerate(names, 1)}
        self._number = 0
        self.said: Counter[str] = Counter()
        """Messages of participants by kind."""
        self.coordinator.settle()
        self._connect()

    def _connect(self) -> None:
        for member in self.members.values():
            member.role.inbox += [participant_events.Start(1), participant_events.Connected(1, "c1", 1)]
            member.role.settle()
            hello = participant_pb2.Hello(participant=member.name, log_id=f"log-{member.name}", incarnation=1, operations=["note"])
            self.coordinator.inbox += [
                coordinator_events.HelloReceived(member.name, member.stream, hello),
                coordinator_events.ReportsReceived(member.name, member.stream, [], True),
            ]
        self.coordinator.inbox.append(coordinator_events.SessionOpened(SESSION))
        self.coordinator.settle()

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, coordinator_effects.Send):
            self.members[effect.participant].wire.append((effect.field, effect.message))
        elif isinstance(effect, coordinator_effects.Answered):
            self.answers.append(effect.answer)

    def _said(self, member: Member, message: Any) -> None:
        if hasattr(message, "transaction_id"):
            self.said[type(message).__name__] += 1
            event = coordinator_events.FromParticipant(member.name, member.stream, message, member.role.position)
            self.coordinator.inbox.append(event)

    # ---- what is measured

    def begin(self, count: int) -> None:
        """So many one-shot transactions arrive in one frame; Prepare is sent."""
        for _ in range(count):
            self._number += 1
            request = client_pb2.RunRequest(number=self._number, timeout_ms=30_000, first_attempt_ms=NOW.wall_ms)
            arguments = encode_arguments({"account": self._number, "amount": 2})
            for name in self.members:
                request.branches.add(participant=name).operations.add(name="note", arguments=arguments)
            arrived = client_pb2.RunRequest.FromString(request.SerializeToString())
            self.coordinator.inbox.append(coordinator_events.Run(SESSION, arrived))
        self.coordinator.settle()

    def begin_interactive(self, count: int, *, last: bool = False) -> None:
        """The same work by calls of the services, each the `last` one or not, and then the commits, in one frame."""
        for _ in range(count):
            self._number += 1
            name = f"{SESSION}.{self._number}"
            request = client_pb2.CommitRequest(number=self._number)
            request.begin.timeout_ms, request.begin.first_attempt_ms = 30_000, NOW.wall_ms
            for member in self.members.values():
                member.call(name, self._number)
                done = request.acknowledged.add(participant=member.name, count=1, incarnation=1)
                if last:
                    done.vote.CopyFrom(member.last_call(name))
            self.coordinator.inbox.append(coordinator_events.Commit(SESSION, request))
        self.coordinator.settle()

    def finish(self) -> None:
        """Both phases, to the last acknowledgement."""
        for _ in range(2):
            for member in self.members.values():
                member.hear()
            self.coordinator.settle()
        self.coordinator.inbox.append(coordinator_events.AnswersSeen(SESSION, self._number + 1))
        self.coordinator.settle()

    def run(self, count: int) -> None:
        """So many transactions from their request to their end."""
        self.begin(count)
        self.finish()

    def counts(self) -> Counter[str]:
        """Messages, forced records and syncs so far, of everybody."""
        total = Counter({"messages": sum(getattr(self.core.counters, name) for name in MESSAGES)})
        for role in (self.coordinator, *(member.role for member in self.members.values())):
            total["forced"] += role.forced
            total["syncs"] += role.syncs
        return total
