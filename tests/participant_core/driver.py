"""A participant's core with an engine, a log and a resource made of plain lists, all on command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from participant_sdk.core import events as into
from participant_sdk.core.branches import Config
from participant_sdk.core.core import ParticipantCore
from participant_sdk.core.work import (
    CommitBranch,
    CommitFailed,
    Committed,
    Execute,
    Executed,
    ExecuteRefused,
    ForgetBranch,
    Keys,
    LocalDone,
    LocalRun,
    Mode,
    PrepareBranch,
    Release,
    ResourceKind,
    Undo,
    UndoFailed,
    Undone,
    Wanted,
)
from participant_sdk.drivers import Invoked
from tests.participant_core.shown import shown, shown_append, shown_effect, shown_record
from tests.transcripts import Command, short, transaction_id
from troth.backoff import Backoff
from troth.errors import ProtocolError, Reason
from troth.ready import Append, Instant, Opened, Ready
from troth.v1 import common_pb2, participant_pb2, record_pb2


def keys_of(words: Sequence[str]) -> Keys:
    """Lock keys; with ~ before it a key is shared."""
    return Keys(tuple(one for one in words if one[0] != "~"), tuple(one[1:] for one in words if one[0] == "~"))


def cause(reason: str) -> common_pb2.Cause:
    """A cause with this reason."""
    return common_pb2.Cause(reason=reason, participant="pay", retryable=Reason[reason].retryable)


@dataclass
class Resource:
    """Answers work. Operations named `read...` change nothing, `refuse...` refuse, `conflict...` meet a locked row, `find@KEY` need
    that key as well, and `find@~KEY` share it; `find#` finds yet another one each time."""

    broken: set[str] = field(default_factory=set)
    """Transactions that can be neither undone nor committed."""
    lost: set[str] = field(default_factory=set)
    """Transactions whose connection is lost with the next call."""
    next_lost_group: bool = False

    def answer(self, work: Any) -> Any:
        """The event that answers a piece of work, or `None`."""
        return self._answers[type(work)](self, work)

    def _execute(self, work: Execute) -> Any:
        names = [operation.name for operation in work.operations]
        reason = next((reason for prefix, reason in _REFUSING.items() if any(n.startswith(prefix) for n in names)), "")
        if self.next_lost_group:
            reason = "GROUP_LOST"
        if reason:
            return ExecuteRefused(work.transaction_id, work.call_id, cause(reason), work.transaction_id in self.lost)
        yet_another = [f"{len(work.keys.exclusive)}"] if "find#" in names else []
        wanted = keys_of(yet_another + [name[5:] for name in names if name.startswith("find@")])
        if work.keys.lacks(wanted):
            return Wanted(work.transaction_id, work.call_id, wanted)
        changed = any(not name.startswith("read") for name in names)
        done = record_pb2.BranchWork(operations=work.operations)
        work.keys.into(done)
        done.results.values.extend(common_pb2.Value(text=f"{name} done") for name in names)
        if changed:
            done.undo.append(b"undo " + work.call_id.encode())
            done.rows.append(b"row")
            done.resource_branch = "gid"
        return Executed(work.transaction_id, work.call_id, done, changed)

    def _prepare(self, work: PrepareBranch) -> Any:
        names = [operation.name for one in work.works for operation in one.operations]
        if any(name.startswith("late") for name in names):
            return ExecuteRefused(work.transaction_id, "", cause("CONSTRAINT"))
        changed = any(not name.startswith("read") for name in names)
        return Executed(work.transaction_id, "", record_pb2.BranchWork(resource_branch="gid" if changed else ""), changed)

    def _undo(self, work: Undo) -> Any:
        if work.transaction_id in self.broken:
            return UndoFailed(work.transaction_id, "the inverse does not apply")
        return Undone(work.transaction_id)

    def _commit(self, work: CommitBranch) -> Any:
        if work.transaction_id in self.broken:
            return CommitFailed(work.transaction_id, "somebody rolled it back")
        return Committed(work.transaction_id)

    _answers: dict[type, Callable[[Resource, Any], Any]] = field(
        default_factory=lambda: {
            Execute: Resource._execute,
            PrepareBranch: Resource._prepare,
            Undo: Resource._undo,
            CommitBranch: Resource._commit,
            Release: lambda self, work: None,
            ForgetBranch: lambda self, work: None,
            LocalRun: lambda self, work: LocalDone(work.ticket, "local done"),
        }
    )


_REFUSING = {"refuse": "REFUSED", "conflict": "CONFLICT"}


def kept(append: Append, event: Any) -> bool:
    """Whether an atomic resource keeps the record of an append that it has carried out."""
    work = append.apply
    if isinstance(event, ExecuteRefused | UndoFailed | Wanted):
        return False
    if isinstance(work, Execute) and not event.changed:
        return work.mode is not Mode.ACTIVE and (work.hold or work.earlier_changed)
    return append.record is not None


def fill(append: Append, event: Any) -> None:
    """What an atomic resource adds to a record."""
    record = append.record
    if isinstance(event, Executed) and isinstance(record, record_pb2.ParticipantRecord):
        kind = record.WhichOneof("kind")
        if kind == "branch_finished":
            record.branch_finished.results.CopyFrom(event.work.results)
        else:
            getattr(record, kind or "").work.CopyFrom(event.work)


class Machinery:
    """Core, engine and log. Nothing happens by itself but what a core does in one step."""

    def __init__(self, kind: ResourceKind = ResourceKind.ATOMIC, **settings: Any) -> None:
        self.settings = {"participant": "pay", "resource": kind, "inquiry": Backoff(1.0, 30.0), **settings}
        self.now = 1000.0
        self.resource = Resource()
        self.durable: list[bytes] = []
        self.written: list[bytes] = []
        self.forced = 0
        self.boot()

    def boot(self) -> None:
        """A process begins with what is durable."""
        self.core = ParticipantCore(Config(**self.settings))
        self.appends: list[Append] = []
        self.invoked: list[Any] = []
        self.effects: list[Any] = []
        self.written = list(self.durable)
        self.core.recover(self.durable, self.instant(), Opened("log-pay", len(self.durable)))
        self.take()

    def instant(self) -> Instant:
        """The time of the test."""
        return Instant(self.now, int(self.now * 1000))

    def step(self, event: Any) -> None:
        """Give the core one event and take what it wants."""
        self.core.step(event, self.instant())
        self.take()

    def take(self) -> Ready:
        """Take what the core wants."""
        ready = self.core.take_ready()
        self.appends += ready.appends
        self.effects += ready.effects
        self.invoked += [effect for effect in ready.effects if isinstance(effect, Invoked)]
        return ready

    def advance(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        until = self.now + seconds
        while (due := self.core.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.core.tick(self.instant())
            self.take()
        self.now = until

    def sync(self) -> None:
        """Write what is queued, make it durable, and give back what waited for that."""
        batch, self.appends = self.appends, []
        released: list[Any] = []
        for append in batch:
            event = None if append.apply is None else self.resource.answer(append.apply)
            released.append(event)
            keep = append.record is not None and (append.apply is None or event is None or kept(append, event))
            if keep:
                fill(append, event)
                assert append.record is not None
                self.written.append(append.record.SerializeToString())
                self.forced += append.force
            if append.record is None or keep:
                released.append(append.event)
                self.effects += append.effects
        self.durable = list(self.written)
        for event in released:
            if event is not None:
                self.step(event)

    def answer(self) -> None:
        """Let the resource answer what it was asked."""
        works, self.invoked = self.invoked, []
        for work in works:
            event = self.resource.answer(work)
            if event is not None:
                self.step(event)

    def drain(self) -> None:
        """Write and answer until nothing is left to do."""
        while self.appends or self.invoked:
            self.sync()
            self.answer()

    def snapshot(self) -> str:
        """All of the core's memory, as text."""
        return dump(self.core)


def dump(thing: Any) -> str:
    """A deep and exact text of an object's memory, so that any change shows."""
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{dump(key)}: {dump(value)}" for key, value in thing.items()) + "}"
    if isinstance(thing, list | tuple | set | frozenset) or type(thing).__name__ == "deque":
        return "[" + ", ".join(dump(item) for item in thing) + "]"
    if type(thing).__module__.startswith(
        ("participant_sdk.core.core", "participant_sdk.core.machine", "participant_sdk.core.locks")
    ):
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
        return f"{type(thing).__name__}({', '.join(f'{name}={dump(getattr(thing, name))}' for name in names)})"
    if type(thing).__name__ in ("Branch", "Timers"):
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
        return f"{type(thing).__name__}({', '.join(f'{name}={dump(getattr(thing, name))}' for name in names)})"
    return repr(thing)


class ParticipantDriver:
    """Commands of transcripts."""

    def __init__(self) -> None:
        self.machine = Machinery()
        self.error: ProtocolError | None = None
        """The last protocol error."""

    def run(self, command: Command) -> Sequence[str]:
        """Carry one command out and tell what came of it."""
        machine = self.machine
        before = len(machine.appends)
        machine.effects.clear()
        method = getattr(self, "do_" + command.verb.replace("-", "_"))
        try:
            told = method(command) or []
        except ProtocolError as error:
            self.error = error
            told = [f"error  {error.reason.name}: {short(error.message)}"]
        machine = self.machine
        queued = machine.appends[before if before <= len(machine.appends) and command.verb not in _FRESH else 0 :]
        return [*told, *[shown_append(one) for one in queued], *[shown_effect(one) for one in machine.effects]]

    # ---- the process

    def do_participant(self, c: Command) -> None:
        """A participant of a kind, with settings."""
        settings: dict[str, Any] = {name: float(v) if "." in v else int(v) for name, v in c.settings.items()}
        if c.has("identity"):
            settings["keeps_identity"] = True
        self.machine = Machinery(ResourceKind(c.words[0]), **settings)
        if not c.has("fresh"):
            self.machine.step(into.Start(1))
            self.machine.step(into.Connected(1, "c1", 7))
            self.machine.drain()
            self.machine.effects.clear()
            self.machine.forced = 0

    def do_start(self, c: Command) -> None:
        self.machine.step(into.Start(int(c.words[0])))

    def do_stop(self, c: Command) -> None:
        self.machine.step(into.Stop())

    def do_crash(self, c: Command) -> None:
        """Only what is durable is left; the next process begins."""
        self.machine.boot()

    def do_sync(self, c: Command) -> None:
        self.machine.sync()

    def do_answer(self, c: Command) -> None:
        self.machine.answer()

    def do_wait(self, c: Command) -> None:
        self.machine.advance(float(c.words[0]))

    def do_resource(self, c: Command) -> None:
        """`resource broken T1`, `resource mended T1`, `resource lost T1`, `resource loses the group`."""
        resource = self.machine.resource
        if c.words[0] == "loses":
            resource.next_lost_group = True
        elif c.words[0] == "keeps":
            resource.next_lost_group = False
        elif c.words[0] == "mended":
            resource.broken.clear()
        else:
            getattr(resource, c.words[0]).add(transaction_id(c.words[1]))

    def do_forced(self, c: Command) -> list[str]:
        """How many forced records there were since the last such question."""
        count, self.machine.forced = self.machine.forced, 0
        return [f"{count} forced records"]

    def do_states(self, c: Command) -> list[str]:
        """Every branch that is remembered, what is locked, and what the log must hold."""
        m = self.machine.core._m
        lines = [
            short(f"state  {tid} {b.state.name} order={b.order}")
            + (f" locks={shown(m.locks.held(tid))}" if tid in m.locks.owners() else "")
            for tid, b in m.branches.items()
        ]
        return lines or ["nothing is remembered"]

    def do_log(self, c: Command) -> list[str]:
        """The records that are durable."""
        return [shown_record(record_pb2.ParticipantRecord.FromString(body)) for body in self.machine.durable]

    def do_live(self, c: Command) -> list[str]:
        """What the cleaner would write again."""
        owner = transaction_id(c.words[0]) if c.words else ""
        return [shown_record(record) for record in self.machine.core.live_records(owner)] or ["nothing"]

    # ---- the session

    def do_connect(self, c: Command) -> None:
        name, log_id = c.settings.get("name", "c1"), c.settings.get("log", "")
        nonce, cell = c.settings.get("nonce", ""), frozenset(c.items("cell"))
        self.machine.step(into.Connected(int(c.words[0]), name, c.number("epoch", 7), log_id, nonce, cell))

    def do_disconnect(self, c: Command) -> None:
        self.machine.step(into.Disconnected(int(c.words[0])))

    def _hear(self, c: Command, message: Any) -> None:
        stream = c.number("stream", self.machine.core._m.sessions.newest)
        self.machine.step(into.FromCoordinator(stream, message))

    def do_enlisted(self, c: Command) -> None:
        refusal = c.settings.get("refused")
        self._hear(
            c,
            participant_pb2.Enlisted(
                transaction_id=transaction_id(c.words[0]), order=c.number("order"), refusal=cause(refusal) if refusal else None
            ),
        )

    def do_prepare(self, c: Command) -> None:
        names = c.items("operations")
        message = participant_pb2.Prepare(
            transaction_id=transaction_id(c.words[0]),
            order=c.number("order", 1),
            operations=[common_pb2.Operation(name=name) for name in names],
            operation_count=c.number("count"),
            one_phase=c.has("one-phase"),
            hold_read_locks=c.has("hold"),
            incarnation=c.number("incarnation", self.machine.core._m.incarnation),
            first_attempt_ms=c.number("age", 100),
            eldest_attempt_ms=c.number("eldest", c.number("age", 100)),
            timeout_ms=c.number("timeout_ms"),
            interactive=c.has("interactive"),
        )
        refusal = c.settings.get("refused")
        stream = c.number("stream", self.machine.core._m.sessions.newest)
        keys, why = keys_of(c.items("keys")), cause(refusal) if refusal else None
        undeclared = tuple(names) if c.has("undeclared") else ()
        self.machine.step(into.PrepareReceived(stream, message, tuple(message.operations), keys, why, undeclared=undeclared))

    def _decide(self, c: Command, kind: participant_pb2.DecisionKind.ValueType) -> None:
        self._hear(
            c,
            participant_pb2.Decision(
                transaction_id=transaction_id(c.words[0]), order=c.number("order"), kind=kind, acknowledge=c.has("acknowledge"),
                urgent=c.has("urgent"),
            ),
        )

    def do_commit(self, c: Command) -> None:
        self._decide(c, participant_pb2.DECISION_KIND_COMMIT)

    def do_abort(self, c: Command) -> None:
        self._decide(c, participant_pb2.DECISION_KIND_ABORT)

    def do_decide_nothing(self, c: Command) -> None:
        self._decide(c, participant_pb2.DECISION_KIND_UNSPECIFIED)

    def do_rollback_if_unseen(self, c: Command) -> None:
        self._hear(c, self._question(c))

    def _question(self, c: Command) -> participant_pb2.RollbackIfUnseen:
        return participant_pb2.RollbackIfUnseen(
            transaction_id=transaction_id(c.words[0]), order=c.number("order"), incarnation=c.number("incarnation")
        )

    def do_watermark(self, c: Command) -> None:
        self._hear(c, participant_pb2.Watermark(epoch=c.number("epoch", 7), below=c.number("below")))

    def do_force(self, c: Command) -> None:
        kind = participant_pb2.ForceKind.Value(f"FORCE_KIND_{c.words[1].upper()}")
        self._hear(c, participant_pb2.Force(transaction_id=transaction_id(c.words[0]), kind=kind, who="ann", why="disk lost"))

    # ---- the service

    def do_call(self, c: Command) -> None:
        ticket, transaction, name = c.words[:3]
        self.machine.step(
            into.Call(
                ticket,
                transaction_id(transaction),
                c.settings.get("id", ticket),
                c.number("age", 100),
                common_pb2.Operation(name=name),
                keys_of(c.items("keys")),
                c.has("told"),
                (name,) if c.has("undeclared") else (),
            )
        )

    def do_last_call(self, c: Command) -> None:
        ticket, transaction = c.words
        self.machine.step(into.LastCall(ticket, transaction_id(transaction)))

    def do_cancel(self, c: Command) -> None:
        self.machine.step(into.Cancelled(c.words[0]))

    def do_local(self, c: Command) -> None:
        event = into.LocalWork(c.words[0], print, not c.has("read"), keys_of(c.items("keys", "*")), self._inside(c))
        self.machine.step(event)

    def do_schema(self, c: Command) -> None:
        self.machine.step(into.SchemaChange(c.words[0], print, "CREATE TABLE t", self._inside(c)))

    def _inside(self, c: Command) -> str:
        return transaction_id(c.settings["inside"]) if "inside" in c.settings else ""


_FRESH = {"sync", "crash", "participant"}
