"""The participant as a case sees it: a session to speak on, branches to speak of, and what was said about each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from coordinator.conform.caller import Answer, Caller
from coordinator.conform.case import Broken, expect
from coordinator.conform.process import Process
from coordinator.conform.wire import Stream, Wire
from troth.errors import ConfigError, RequestError
from troth.v1 import common_pb2, participant_pb2
from troth.values import decode_results, encode_arguments

YES = participant_pb2.VOTE_KIND_YES
NO = participant_pb2.VOTE_KIND_NO
READ_ONLY = participant_pb2.VOTE_KIND_READ_ONLY
COMMITTED = participant_pb2.VOTE_KIND_COMMITTED
COMMIT = participant_pb2.DECISION_KIND_COMMIT
ABORT = participant_pb2.DECISION_KIND_ABORT
LIMITS = common_pb2.Limits(
    frame_bytes_max=1024 * 1024, payload_bytes_max=1024 * 1024, participants_max=100, key_bytes_max=200, operations_max=1000,
    timeout_ms_max=3_600_000,
)  # fmt: skip
EPOCH = 1000
"""The coordinator has started some times before."""
OLD_STREAMS_MAX = 3
"""Streams that a process may have dialled before it was killed, and that are only heard of afterwards."""
_OPEN = (participant_pb2.BRANCH_STATE_ACTIVE, participant_pb2.BRANCH_STATE_PREPARED)
_SAID_OF_BRANCHES = ("reports", "votes", "acknowledgements", "inquiries", "settlements", "enlists")


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as its author gave it: `NAME {"argument": value}`; `{n}` stands for a number of the branch's own."""

    name: str
    arguments: str

    @classmethod
    def parse(cls, text: str) -> Operation:
        """Parse it. Raises `ConfigError`."""
        name, _, arguments = text.strip().partition(" ")
        operation = cls(name, arguments.strip() or "{}")
        try:
            operation.of(1)
        except (ValueError, TypeError, RequestError) as error:
            raise ConfigError(f"{text!r} is no operation: {error}", hint="Write NAME and a JSON object.") from None
        return operation

    def of(self, number: int) -> common_pb2.Operation:
        """As it travels, for one branch."""
        arguments = json.loads(self.arguments.replace("{n}", str(number)))
        if not isinstance(arguments, dict):
            raise TypeError("its arguments are no JSON object")
        return common_pb2.Operation(name=self.name, arguments=encode_arguments(arguments))


@dataclass(frozen=True, slots=True)
class Operations:
    """What the participant is asked to do."""

    work: Operation
    """Changes something, and succeeds."""
    parks: tuple[Operation, ...] = ()
    """What cannot be rolled back once it is prepared; with a second one, once another transaction has committed that."""
    refuses: Operation | None = None
    """Refuses."""
    reads: Operation | None = None
    """Reads what the work changes, and changes nothing."""
    slow: Operation | None = None
    """Changes something, and takes its time."""

    @property
    def slowest(self) -> Operation:
        """What runs for longest: so what comes behind it finds it running."""
        return self.slow or self.work


@dataclass(slots=True)
class Branch:
    """One branch of the participant."""

    peer: Peer
    transaction_id: str
    order: int
    number: int

    def prepare_message(self, *operations: Operation, **fields: Any) -> participant_pb2.Prepare:
        """A Prepare with operations; by default the one that works."""
        interactive = fields.get("interactive", False)
        wanted = () if interactive else operations or (self.peer.operations.work,)
        message = participant_pb2.Prepare(
            transaction_id=self.transaction_id, order=self.order, operations=[one.of(self.number) for one in wanted],
            incarnation=self.peer.hello.incarnation, first_attempt_ms=self.peer.started_ms + self.order, timeout_ms=60_000,
            peers=participant_pb2.Peers(participants=[self.peer.hello.participant, "another"]).SerializeToString(),
        )  # fmt: skip
        message.MergeFrom(participant_pb2.Prepare(**fields))
        return message

    def decision_message(self, kind: participant_pb2.DecisionKind.ValueType, *, asked: bool = True) -> participant_pb2.Decision:
        """A decision; an ABORT asks for an acknowledgement unless told otherwise."""
        return participant_pb2.Decision(
            transaction_id=self.transaction_id, order=self.order, kind=kind, urgent=True, acknowledge=asked and kind == ABORT
        )

    def settle_message(self) -> participant_pb2.RollbackIfUnseen:
        """The question what became of it."""
        return participant_pb2.RollbackIfUnseen(transaction_id=self.transaction_id, order=self.order)

    async def prepare(self, *operations: Operation, **fields: Any) -> participant_pb2.Vote:
        """Send Prepare; returns the vote."""
        self.peer.say(prepares=[self.prepare_message(*operations, **fields)])
        return await self.vote()

    async def prepared(self, *operations: Operation, **fields: Any) -> participant_pb2.Vote:
        """Send Prepare, and have it voted YES."""
        vote = await self.prepare(*operations, **fields)
        expect(vote.kind == YES, f"work was prepared, and the vote was {told(vote)}")
        return vote

    async def vote(self) -> participant_pb2.Vote:
        """The next vote."""
        vote: participant_pb2.Vote = await self.peer.heard("votes", self.transaction_id)
        return vote

    async def decide(self, kind: participant_pb2.DecisionKind.ValueType) -> participant_pb2.Acknowledgement:
        """Send a decision that is acknowledged; returns the acknowledgement."""
        self.peer.say(decisions=[self.decision_message(kind)])
        return await self.acknowledgement()

    async def acknowledgement(self) -> participant_pb2.Acknowledgement:
        """The next acknowledgement."""
        message: participant_pb2.Acknowledgement = await self.peer.heard("acknowledgements", self.transaction_id)
        return message

    async def acknowledged(
        self, kind: participant_pb2.DecisionKind.ValueType, wanted: str
    ) -> participant_pb2.Acknowledgement:
        """Send a decision, and have it acknowledged as `wanted`."""
        message = await self.decide(kind)
        verb = participant_pb2.DecisionKind.Name(kind).removeprefix("DECISION_KIND_")
        expect(told(message) == wanted, f"{verb} was acknowledged {told(message)}, not {wanted}")
        return message

    async def settled(self, wanted: str) -> participant_pb2.Settlement:
        """Ask what became of it, and hear `wanted`."""
        self.peer.say(settles=[self.settle_message()])
        message: participant_pb2.Settlement = await self.peer.heard("settlements", self.transaction_id)
        expect(told(message) == wanted, f"RollbackIfUnseen was answered {told(message)}, not {wanted}")
        return message

    async def forced(self, kind: participant_pb2.ForceKind.ValueType, wanted: str) -> participant_pb2.Acknowledgement:
        """Send an operator's order, and have it acknowledged as `wanted`."""
        force = participant_pb2.Force(transaction_id=self.transaction_id, kind=kind, who="conform", why="a case of troth conform")
        self.peer.say(forces=[force])
        message = await self.acknowledgement()
        expect(told(message) == wanted, f"{participant_pb2.ForceKind.Name(kind)} was acknowledged {told(message)}, not {wanted}")
        return message

    def hold_enlisted(self) -> None:
        """From now on Enlist is answered by the case."""
        self.peer.held.add(self.transaction_id)

    def enlisted(self, **refusal: Any) -> participant_pb2.Enlisted:
        """The answer to Enlist; with `refusal` it is refused."""
        return participant_pb2.Enlisted(transaction_id=self.transaction_id, order=self.order, **refusal)

    def begin_call(self, *, call_id: str = "", operation: Operation | None = None, **context: Any) -> asyncio.Task[Answer]:
        """Call the participant's own API in this transaction; by default with the operation that works."""
        peer = self.peer
        assert peer.caller is not None
        message = common_pb2.TransactionContext(
            transaction_id=self.transaction_id, call_id=call_id or secrets.token_hex(4),
            first_attempt_ms=peer.started_ms + self.order,
        )  # fmt: skip
        message.MergeFrom(common_pb2.TransactionContext(**context))
        wanted = (operation or peer.operations.work).of(self.number)
        return asyncio.create_task(peer.caller.call(message, wanted, peer.patience_seconds))

    async def call(self, *, call_id: str = "", operation: Operation | None = None, **context: Any) -> Answer:
        """The same; returns how it ended."""
        return await self.peer.answered(self.begin_call(call_id=call_id, operation=operation, **context))

    async def works(self, **fields: Any) -> Answer:
        """A call that succeeds, and is acknowledged as one operation of this incarnation."""
        answer = await self.call(**fields)
        expect(not answer.failure, f"a call failed: {answer.failure}")
        hello = self.peer.hello
        wanted = (hello.participant, hello.incarnation)
        told = [(one.participant, one.incarnation) for one in answer.acknowledged]
        expect(told == [wanted], f"troth-acknowledged-bin names {told}, not {[wanted]}")
        expect(answer.count == 1, f"a call of one operation acknowledged {answer.count}")
        return answer

    async def is_silent(self, what: str) -> None:
        """Nothing is said of it, but questions about its outcome."""
        await self.peer.listen()
        for name in ("votes", "acknowledgements", "settlements"):
            expect(not self.peer.said(name, self.transaction_id), f"{what}, and {name} came")


def told(message: Any) -> str:
    """The kind of a vote, acknowledgement, settlement or report, without the prefix of its enum."""
    name = "state" if isinstance(message, participant_pb2.BranchReport) else "kind"
    enum = message.DESCRIPTOR.fields_by_name[name].enum_type
    value = enum.values_by_number.get(getattr(message, name))
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    kind = str(getattr(message, name)) if value is None else value.name.removeprefix(prefix)
    cause = getattr(message, "cause", None)
    return f"{kind} ({cause.reason})" if cause is not None and cause.reason else kind


@dataclass(slots=True)
class Peer:
    """The participant."""

    wire: Wire
    process: Process
    operations: Operations
    patience_seconds: float = 10.0
    """How long an answer may take."""
    quiet_seconds: float = 0.3
    """How long silence is listened to."""
    name: str = "conform"
    """The coordinator's name."""
    epoch: int = EPOCH
    started_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))
    log_id: str = field(default_factory=lambda: secrets.token_hex(16))
    """The identity of the log that the coordinator would have."""
    hello: participant_pb2.Hello = field(default_factory=participant_pb2.Hello)
    reports: dict[str, participant_pb2.BranchReport] = field(default_factory=dict)
    """What the last Hello listed."""
    watermark: tuple[int, int] = (0, 0)
    position: int = 0
    """The newest position that the participant has told; 0 for one that tells none."""
    hello_position: int = 0
    """What it told with its last Hello."""
    position_fell: bool = False
    """Whether one was lower than one before."""
    own_position: int = 1
    """How far the coordinator's log would be."""
    caller: Caller | None = None
    """Calls the participant's own API."""
    held: set[str] = field(default_factory=set)
    """Transactions whose Enlist the case answers by itself; all others are accepted."""
    _stream: Stream | None = None
    _heard: dict[tuple[str, str], deque[Any]] = field(default_factory=dict)
    _mine: dict[str, int] = field(default_factory=dict)
    """The orders of the branches of this case."""
    _complete_with_hello: bool = False
    _numbers: int = 0

    # ---- branches

    def branch(self, *, epoch: int = 0, order: int = 0, nonce: str = "") -> Branch:
        """A branch that the participant has never seen."""
        self._numbers += 1
        transaction_id = f"{self.name}.{epoch or self.epoch}.{nonce or self.nonce}.1.{self._numbers}"
        self._mine[transaction_id] = order or self._numbers
        return Branch(self, transaction_id, order or self._numbers, self._numbers)

    @property
    def next_number(self) -> int:
        """The number of the next branch's own."""
        return self._numbers + 1

    async def committed(self, **fields: Any) -> Branch:
        """A branch that has committed in two phases."""
        branch = self.branch()
        await branch.prepared(**fields)
        await branch.acknowledged(COMMIT, "DONE")
        return branch

    async def look(self, branch: Branch) -> list[Any]:
        """What the reading operation sees of a branch's work, in a transaction of its own."""
        assert self.operations.reads is not None
        reader = self.branch()
        reader.number = branch.number
        vote = await reader.prepare(self.operations.reads, one_phase=True)
        expect(vote.kind in (READ_ONLY, COMMITTED), f"a read in one phase was voted {told(vote)}")
        return decode_results(vote.results)

    async def fence(self) -> None:
        """Return when everything that was said before has been taken and is durable: a later branch was prepared."""
        branch = self.branch()
        await branch.prepared()
        await branch.acknowledged(ABORT, "DONE")

    # ---- speaking and hearing

    def say(self, **fields: Any) -> None:
        """Send one frame."""
        self.stream.say(participant_pb2.SessionResponse(**fields))

    @property
    def stream(self) -> Stream:
        """The session's stream. Raises `Broken` when it is gone."""
        if self._stream is None or self._stream.ended:
            raise Broken(self._why_ended())
        return self._stream

    @property
    def is_connected(self) -> bool:
        """Whether there is a session."""
        return self._stream is not None and not self._stream.ended

    def said(self, name: str, transaction_id: str) -> deque[Any]:
        """What was said of a transaction and not asked for yet."""
        return self._heard.setdefault((name, transaction_id), deque())

    async def heard(self, name: str, transaction_id: str, patience_seconds: float | None = None) -> Any:
        """The next message of a kind about a transaction. Raises `Broken` when none comes in time, or the stream ends."""
        queue = self.said(name, transaction_id)
        patience_seconds = patience_seconds or self.patience_seconds
        try:
            async with asyncio.timeout(patience_seconds):
                while not queue:
                    await self._take(await self.stream.read())
        except TimeoutError:
            raise Broken(f"none of the {name} about the branch came within {patience_seconds:g} s") from None
        return queue.popleft()

    async def answered(self, call: asyncio.Task[Answer]) -> Answer:
        """The answer to a call; meanwhile what the participant says is heard."""
        while not call.done():
            reading = asyncio.ensure_future(self.stream.read() if self.is_connected else asyncio.sleep(self.quiet_seconds))
            await asyncio.wait({call, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.cancel() and (frame := reading.result()) is not None:
                self._sort(frame)
        return call.result()

    async def listen(self) -> None:
        """Hear what is said in the next moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.quiet_seconds):
                while self.is_connected and (frame := await self.stream.read()) is not None:
                    self._sort(frame)

    async def hears_the_end(self, why: str) -> None:
        """The participant ends the stream."""
        assert self._stream is not None
        try:
            async with asyncio.timeout(self.patience_seconds):
                while not self._stream.ended:
                    frame = await self._stream.read()
                    if frame is not None:
                        self._sort(frame)
        except TimeoutError:
            raise Broken(f"{why}, and the participant did not end the stream") from None

    async def _take(self, frame: participant_pb2.SessionRequest | None) -> None:
        if frame is None:
            raise Broken(self._why_ended())
        self._sort(frame)

    def _note(self, position: int) -> None:
        if position:
            self.position_fell |= position < self.position
            self.position = position

    def _sort(self, frame: participant_pb2.SessionRequest) -> None:
        self._note(frame.position)
        for name in _SAID_OF_BRANCHES:
            for message in getattr(frame, name):
                self.said(name, message.transaction_id).append(message)
        for one in (enlist.transaction_id for enlist in frame.enlists if enlist.transaction_id not in self.held):
            if self.is_connected:
                self._numbers += 1
                self.say(enlisted=[participant_pb2.Enlisted(transaction_id=one, order=self._mine.get(one, self._numbers))])

    def _why_ended(self) -> str:
        garbled = self._stream.garbled if self._stream is not None else ""
        return garbled or "the participant ended the stream, as it does when it takes something for a protocol error"

    # ---- sessions

    async def ready(self) -> None:
        """Have a session, for a case of its own."""
        for of_a_case in (self._mine, self._heard, self.held):
            of_a_case.clear()
        if not self.is_connected:
            await self.connect()

    async def accept(self) -> Stream:
        """The next stream, after its Hello. A process that only asks is let in, and says another one."""
        while (stream := await self.accept_any()) and self.hello.asks:
            self.welcome()
            self.lose()
        return stream

    async def accept_any(self) -> Stream:
        """The next stream, after its Hello, also when that only asks."""
        try:
            async with asyncio.timeout(self.patience_seconds):
                self._stream = await self.wire.accept()
                frame = await self._stream.read()
        except TimeoutError:
            raise Broken(f"the participant did not dial within {self.patience_seconds:g} s") from None
        expect(frame is not None and frame.HasField("hello"), "the first frame has no Hello")
        assert frame is not None
        self.hello, self.hello_position = frame.hello, frame.position
        self._note(frame.position)
        beside = ("hello", "reports_complete", "position", "timestamp")
        said = [field.name for field, _ in frame.ListFields() if field.name not in beside]
        expect(not said, f"{', '.join(said)} came with Hello, before Welcome")
        self._complete_with_hello = frame.reports_complete
        return self._stream

    async def connect(self, **fields: Any) -> None:
        """Accept the next stream, welcome it, hear all reports, and answer those that are no business of the case."""
        await self.accept()
        self.welcome(**fields)
        await self.hear_reports()

    def welcome(self, *, epoch: int = 0, limits: common_pb2.Limits = LIMITS, **fields: Any) -> None:
        """Send Welcome, with the fields given."""
        self.epoch = max(self.epoch, epoch)
        welcome = participant_pb2.Welcome(
            protocol_version=1, coordinator=self.name, epoch=epoch or self.epoch, nonce=self.nonce, limits=limits,
            log_id=self.log_id,
        )  # fmt: skip
        welcome.MergeFrom(participant_pb2.Welcome(**fields))
        self.say(welcome=welcome, position=self.own_position)

    async def hear_reports(self) -> None:
        """Hear the list of unfinished branches up to its end."""
        self.reports, complete = {}, self._complete_with_hello
        try:
            async with asyncio.timeout(self.patience_seconds):
                while not complete:
                    frame = await self.stream.read()
                    await self._take(frame)
                    assert frame is not None
                    self.reports.update({report.transaction_id: report for report in frame.reports})
                    complete = frame.reports_complete
        except TimeoutError:
            raise Broken(f"reports_complete did not come within {self.patience_seconds:g} s of Welcome") from None
        epoch, below = self.watermark
        self.say(watermark=participant_pb2.Watermark(epoch=epoch, below=below))
        for report in self.reports.values():
            if report.transaction_id not in self._mine:
                self._dismiss(report)

    def _dismiss(self, report: participant_pb2.BranchReport) -> None:
        """End what an earlier case, or an earlier run, has left."""
        if report.state in _OPEN:
            decision = participant_pb2.Decision(transaction_id=report.transaction_id, order=report.order, kind=ABORT)
            self.say(decisions=[decision])
        elif report.state != participant_pb2.BRANCH_STATE_COMMITTED:
            force = participant_pb2.Force(transaction_id=report.transaction_id, who="conform", why="left over")
            force.kind = participant_pb2.FORCE_KIND_FORGET
            self.say(forces=[force])

    async def reconnect(self, **fields: Any) -> None:
        """Lose the stream, and have the next one."""
        self.lose()
        await self.connect(**fields)

    def lose(self) -> None:
        """Lose the stream."""
        if self._stream is not None:
            self._stream.end()

    async def restart(self) -> None:
        """Kill the participant, start it again, and have its next session."""
        await self.kill_and_accept()
        self.welcome()
        await self.hear_reports()

    async def kill_and_accept(self) -> None:
        """Kill the participant, start it again, and have its Hello."""
        self.lose()
        before = self.hello
        await self.process.restart()
        for _ in range(OLD_STREAMS_MAX):
            await self.accept()
            if self.hello.incarnation != before.incarnation or self.hello.log_id != before.log_id:
                break
            self.lose()
        else:
            raise Broken(f"after a restart the incarnation is still {before.incarnation}")

    async def move_watermark(self, below: int, *, epoch: int = 0) -> None:
        """Let the participant forget, and know that it has taken that."""
        self.watermark = max(self.watermark, (epoch or self.epoch, below))
        self.say(watermark=participant_pb2.Watermark(epoch=epoch or self.epoch, below=below))
        await self.fence()
