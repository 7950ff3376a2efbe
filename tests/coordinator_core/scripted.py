"""The commands of the coordinator's transcripts: a client, three participants `a`, `b`, `c`, an operator, and a disk.

A client:       run T1 a,b · begin T1 · commit T1 a=1 b=2 · commit T1 a=1@2 begin (of incarnation 2) · abort T1 a=1@1 ·
                commit T1 a=1 result=paid (left under its key) ·
                get T1 a,b key=k · session lost · session back · seen 3 · watch T1 · unwatch T1
A participant:  enlist a T1 · vote a T1 YES · ack a T1 · settled a T1 COMMITTED · ask a T1 PREPARED · lose a ·
                back a prepared=T1 (Hello, a sync and the list) · hello a · reports a active=T2 more
An operator:    resolve T1 abandon · resolve T1 abort at=b · forget T1 · replace a · drain
The world:      sync · wait 1.5 · clock 60 (the wall clock jumps) · crash · crash kept (what was being written is on the disk) ·
                crash starting (the next epoch's record is not durable yet)
To see:         states · log · live T1 (what the cleaner would write again)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import LOG_ID, SECRET, WALL_MS, Driver
from tests.transcripts import EPOCH, NONCE, Command, describe, short, transaction_id
from troth.errors import ProtocolError, Reason
from troth.ready import Append
from troth.seals import seal_key, sealed
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2, record_pb2

OPERATOR = {"who": "ann", "why": "her reason"}
_REPORTED = [name.removeprefix("BRANCH_STATE_").lower() for name in participant_pb2.BranchState.keys()[1:]]


class CoordinatorDriver:
    """Carries the commands of one transcript out."""

    def __init__(self) -> None:
        self._fresh()

    def _fresh(self, **limits: Any) -> None:
        """A coordinator whose disk holds an earlier epoch and nothing else."""
        self.limits = limits
        earlier = record_pb2.EpochStarted(coordinator="c1", epoch=EPOCH - 1, nonce=NONCE)
        self._boot([record_pb2.CoordinatorRecord(epoch_started=earlier).SerializeToString()], connect=True)

    def _boot(self, records: list[bytes], *, connect: bool, at: float = 0.0, serve: bool = True, hearing: float = 0.0) -> None:
        settings = CoreSettings(**{"resend_first_seconds": 0.5, **self.limits})
        self.driver = Driver(settings, records, connect=connect, at=at, nonce=NONCE, serve=serve, hearing=hearing)
        self.streams = 3
        self.seen = len(self.driver.log)
        if not connect:
            self.driver.step(events.SessionOpened(self.driver.session))

    def run(self, command: Command) -> Sequence[str]:
        """Carry one command out and tell what came of it."""
        self.driver.out.clear()
        waiting = list(self.driver.waiting)
        told: list[str] = []
        try:
            told.extend(getattr(self, f"do_{command.verb}")(command) or [])
        except ProtocolError as error:
            told.append(f"error  {error.reason.name}: {short(error.message)}")
        queued = [append for append in self.driver.waiting if all(append is not before for before in waiting)]
        return [*told, *map(_append, queued), *map(_effect, self.driver.out)]

    # ---- the world

    def do_coordinator(self, c: Command) -> None:
        """Begin again, with other limits; `new` with an empty disk."""
        self._fresh(**{name: float(value) if "." in value else int(value) for name, value in c.settings.items()})
        if c.has("new"):
            self._boot([], connect=True)

    def do_sync(self, c: Command) -> None:
        self.driver.sync_batch()

    def do_wait(self, c: Command) -> None:
        self.driver.wait(float(c.words[0]))

    def do_clock(self, c: Command) -> None:
        self.driver.wall_ahead_ms += int(float(c.words[0]) * 1000)

    def do_crash(self, c: Command) -> list[str]:
        """The next life begins, with nobody connected; with `hearing` it hears first those whom the log has bound."""
        written = [append.record for append in self.driver.waiting] if c.has("kept") else []
        bodies = [record.SerializeToString() for record in written if record is not None]
        hearing = 2.0 if c.has("hearing") else 0.0
        self._boot([*self.driver.log, *bodies], connect=False, at=self.driver.now, serve=not c.has("starting"), hearing=hearing)
        return [f"epoch {self.driver.core.epoch}"]

    # ---- to see

    def do_states(self, c: Command) -> list[str]:
        """Every transaction that is open or retained, and who holds which key."""
        book = self.driver.book
        lines = [
            short(" ".join([txn.id, txn.state.value, *(f"{name}={branch.step.value}" for name, branch in txn.branches.items())]))
            for txn in book.live.values()
        ]
        lines += [short(f"{name} is over: {_outcome(done.outcome)}") for name, done in book.finished.items()]
        lines += [short(f"key {key} is held by {entry.transaction_id}") for key, entry in book.keys.items()]
        return lines or ["nothing"]

    def do_log(self, c: Command) -> list[str]:
        """The records that became durable in this life."""
        return [_record(record_pb2.CoordinatorRecord.FromString(body)) for body in self.driver.log[self.seen :]] or ["nothing"]

    def do_over(self, c: Command) -> list[str]:
        """What people were told to be over since this was asked last, and what of it takes an earlier row's place."""
        told, self.driver.over = self.driver.over, []
        return [short(_over(one)) for one in told] or ["nothing"]

    def do_live(self, c: Command) -> list[str]:
        return [_record(record) for record in self.driver.core.live_records(transaction_id(c.words[0]))] or ["nothing"]

    # ---- the client

    def _first(self, c: Command) -> int:
        """`first=-60`: the first attempt was a minute ago; with a key it is now unless `first=none`."""
        first = c.settings.get("first", "0" if "key" in c.settings else "none")
        return 0 if first == "none" else WALL_MS + int(float(first) * 1000)

    def do_run(self, c: Command) -> None:
        request = client_pb2.RunRequest(
            number=_number(c),
            timeout_ms=c.number("timeout_ms", 5000),
            key=c.settings.get("key", ""),
            first_attempt_ms=self._first(c),
            wait=common_pb2.WAIT_COMPLETE if c.has("complete") else common_pb2.WAIT_LOGGED,
            hold_read_locks=c.has("hold"),
        )
        for name in c.words[1].split(","):
            operations = [common_pb2.Operation(name=operation) for operation in c.items("operations", "work")]
            request.branches.add(participant=name, operations=operations)
        self.driver.step(events.Run(self.driver.session, request))

    def do_begin(self, c: Command) -> None:
        request = client_pb2.BeginRequest(
            number=_number(c),
            timeout_ms=c.number("timeout_ms", 5000),
            key=c.settings.get("key", ""),
            first_attempt_ms=self._first(c),
        )
        self.driver.step(events.Begin(self.driver.session, request))

    def do_commit(self, c: Command) -> None:
        request = client_pb2.CommitRequest(number=_number(c), acknowledged=_named(c), result=c.settings.get("result", "").encode())
        if c.has("begin"):
            request.begin.CopyFrom(client_pb2.BeginRequest(timeout_ms=5000))
        self.driver.step(events.Commit(self.driver.session, request))

    def do_abort(self, c: Command) -> None:
        request = client_pb2.AbortRequest(number=_number(c), acknowledged=_named(c))
        self.driver.step(events.Abort(self.driver.session, request))

    def do_get(self, c: Command) -> None:
        names = c.words[1].split(",") if len(c.words) > 1 else []
        request = client_pb2.GetRequest(
            transaction_id=transaction_id(c.words[0]), participants=names, first_attempt_ms=self._first(c),
            key=c.settings.get("key", ""),
        )  # fmt: skip
        self.driver.step(events.Get("ticket", request))

    def do_watch(self, c: Command) -> None:
        self.driver.step(events.Watch("watcher", transaction_id(c.words[0])))

    def do_unwatch(self, c: Command) -> None:
        self.driver.step(events.Unwatch("watcher", transaction_id(c.words[0])))

    def do_session(self, c: Command) -> None:
        kind = events.SessionLost if c.has("lost") else events.SessionOpened
        self.driver.step(kind(self.driver.session))

    def do_seen(self, c: Command) -> None:
        """The client has all answers below a number."""
        self.driver.step(events.AnswersSeen(self.driver.session, int(c.words[0])))

    # ---- participants

    def do_lose(self, c: Command) -> None:
        self.driver.lose(c.words[0])

    def do_hello(self, c: Command) -> None:
        name = c.words[0]
        known = self.driver.book.participants.get(name)
        incarnation = c.number("incarnation", known.incarnation if known is not None else 1)
        self.streams += 1
        epoch, nonce, position = (*c.settings.get("heard", "").split("/"), "", "0")[:3]
        life = {"epoch": int(epoch or 0), "nonce": nonce, "position": int(position or 0)}
        heard = [participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, **life)] if epoch else []
        starts = [one.split(":") for one in c.settings.get("starts", "").split(",") if one]
        log_id = c.settings.get("log", f"log-{name}")
        hello = participant_pb2.Hello(
            participant=name, log_id=log_id, incarnation=incarnation, heard=heard, nonce=c.settings.get("nonce", ""),
            starts=[start for start, _ in starts], starts_after=[int(after) for _, after in starts],
        )  # fmt: skip
        self.driver.step(events.HelloReceived(name, self.streams, hello, c.number("at", 0)))

    def do_reports(self, c: Command) -> None:
        name = c.words[0]
        stream = c.number("stream", self.driver.book.participants[name].stream)
        self.driver.step(events.ReportsReceived(name, stream, list(_reports(c)), not c.has("more")))

    def do_back(self, c: Command) -> None:
        """Hello, whatever must be durable for its Welcome, and the list."""
        self.do_hello(c)
        self.driver.sync()
        self.do_reports(c)

    def _say(self, c: Command, message: Any) -> None:
        name = c.words[0]
        stream = c.number("stream", self.driver.book.participants[name].stream)
        self.driver.step(events.FromParticipant(name, stream, message, c.number("at", 0)))

    def do_enlist(self, c: Command) -> None:
        self._say(c, participant_pb2.Enlist(transaction_id=transaction_id(c.words[1])))

    def do_vote(self, c: Command) -> None:
        kind = participant_pb2.VoteKind.Value(f"VOTE_KIND_{c.words[2]}")
        reason = Reason[c.settings.get("reason", "REFUSED")]
        cause = common_pb2.Cause(reason=reason.name, retryable=reason.retryable) if c.has("NO") else None
        transaction, order = transaction_id(c.words[1]), c.number("order", 0)
        vote = participant_pb2.Vote(transaction_id=transaction, kind=kind, results=_results(c), cause=cause, order=order)
        self._say(c, vote)

    def do_ack(self, c: Command) -> None:
        kind = participant_pb2.AcknowledgementKind.Value(f"ACKNOWLEDGEMENT_KIND_{c.words[2] if len(c.words) > 2 else 'DONE'}")
        detail = c.settings.get("detail", "")
        self._say(c, participant_pb2.Acknowledgement(transaction_id=transaction_id(c.words[1]), kind=kind, detail=detail))

    def do_settled(self, c: Command) -> None:
        kind = participant_pb2.SettlementKind.Value(f"SETTLEMENT_KIND_{c.words[2]}")
        self._say(c, participant_pb2.Settlement(transaction_id=transaction_id(c.words[1]), kind=kind, results=_results(c)))

    def do_ask(self, c: Command) -> None:
        state = participant_pb2.BranchState.Value(f"BRANCH_STATE_{c.words[2]}")
        self._say(c, participant_pb2.Inquiry(transaction_id=transaction_id(c.words[1]), order=c.number("order", 1), state=state))

    # ---- the operator

    def _administer(self, request: Any) -> None:
        self.driver.step(events.Administer("ticket", request))

    def do_resolve(self, c: Command) -> None:
        action = admin_pb2.ResolveAction.Value(f"RESOLVE_ACTION_{c.words[1].upper()}")
        participant = c.settings.get("at", "")
        self._administer(
            admin_pb2.ResolveRequest(transaction_id=transaction_id(c.words[0]), action=action, participant=participant, **OPERATOR)
        )

    def do_forget(self, c: Command) -> None:
        self._administer(admin_pb2.ForgetTransactionRequest(transaction_id=transaction_id(c.words[0]), **OPERATOR))

    def do_replace(self, c: Command) -> None:
        name = c.words[0]
        log_id = c.settings.get("log", f"log-{name}")
        self._administer(admin_pb2.ReplaceParticipantRequest(participant=name, log_id=log_id, **OPERATOR))

    def do_drain(self, c: Command) -> None:
        self._administer(admin_pb2.DrainRequest())


# ---- what is read


def _number(c: Command) -> int:
    return int(transaction_id(c.words[0]).rpartition(".")[2])


def _named(c: Command) -> Iterable[client_pb2.AcknowledgedOperations]:
    """`a=2` operations; `a=2@1` those of incarnation 1; `a=2@1!2` with an early vote on 2, `!2:T5` with one on another transaction,
    `!forged` with one of somebody else; `unknown`: a call of which nobody knows how it ended."""
    for name, told in c.settings.items():
        if name == "result":
            continue
        told, _, voted = told.partition("!")
        count, _, incarnation = told.partition("@")
        done = client_pb2.AcknowledgedOperations(participant=name, count=int(count), incarnation=int(incarnation or 0))
        if voted:
            voted, _, on = voted.partition(":")
            vote = participant_pb2.EarlyVote(
                transaction_id=transaction_id(on or c.words[0]), incarnation=done.incarnation, position=c.number("position"),
                operation_count=done.count if voted == "forged" else int(voted),
            )  # fmt: skip
            log_id = "another" if voted == "forged" else f"log-{name}"
            done.vote.CopyFrom(sealed(seal_key(SECRET, name, log_id), vote))
        yield done
    if c.has("unknown"):
        yield client_pb2.AcknowledgedOperations(unknown=True)


def _results(c: Command) -> bytes:
    return common_pb2.Results(values=[common_pb2.Value(text=text) for text in c.items("results")]).SerializeToString()


def _reports(c: Command) -> Iterable[participant_pb2.BranchReport]:
    for state in _REPORTED:
        for name in c.items(state):
            yield participant_pb2.BranchReport(
                transaction_id=transaction_id(name), order=c.number("order", 1), results=_results(c),
                state=participant_pb2.BranchState.Value(f"BRANCH_STATE_{state.upper()}"), early=c.has("early"),
            )  # fmt: skip


# ---- what is told


def _outcome(outcome: common_pb2.Outcome.ValueType) -> str:
    return common_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_")


def _without_noise(message: Any) -> Any:
    """A copy without times and hashes, which say nothing here."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name in ("first_attempt_ms", "eldest_attempt_ms", "timeout_ms"):
        if name in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(name)
    if "claim" in copy.DESCRIPTOR.fields_by_name and copy.HasField("claim"):
        copy.claim.ClearField("body_hash")
        copy.claim.ClearField("hash_version")
    return copy


def _append(append: Append) -> str:
    assert append.record is not None and append.apply is None
    return f"write  {_record(append.record)[7:]}, {'forced' if append.force else 'not forced'}"


def _record(record: Any) -> str:
    kind = record.WhichOneof("kind")
    return f"record {kind} {describe(_without_noise(getattr(record, kind)))}"


def _effect(effect: Any) -> str:
    return short(_TOLD[type(effect)](effect)).rstrip()


def _over(over: effects.Over) -> str:
    steps = ">".join(state.value for state, _ in over.moments.steps)
    about = f" cause={over.cause.reason}" if over.cause is not None else ""
    return f"{over.transaction_id} {_outcome(over.outcome)} of {','.join(over.participants)} {steps}{about}{' news' * over.is_news}"


def _said(effect: effects.Send) -> str:
    message = _without_noise(effect.message)
    after = ""
    if isinstance(message, participant_pb2.Prepare):
        if message.operations:
            after += f" operations={','.join(operation.name for operation in message.operations)}"
        if message.peers:
            after += f" peers={','.join(participant_pb2.Peers.FromString(message.peers).participants)}"
        message.ClearField("operations")
        message.ClearField("peers")
    return f"say    {effect.participant} {effect.field} {describe(message)}{after}"


def _answered(answer: client_pb2.Answer) -> str:
    """The number only where it is not the transaction's own."""
    copy = client_pb2.Answer()
    copy.CopyFrom(answer)
    own = answer.transaction_id.rpartition(".")[2] == str(answer.number)
    number = f"(for number {answer.number}) " if answer.number and not own else ""
    for name in ("number", "transaction_id", "results"):
        copy.ClearField(name)
    results = [describe(one).replace("participant=", "").replace(" results=", " ") for one in answer.results]
    return f"{number}{answer.transaction_id} {describe(copy)}" + (f" results: {', '.join(results)}" if results else "")


def _begun(effect: effects.Begun) -> str:
    response = effect.response
    if response.HasField("refusal"):
        return f"begun  number {response.number} refused {response.refusal.reason}"
    return f"begun  {response.transaction_id}" + (f", holder {_answered(response.holder)}" if response.HasField("holder") else "")


_TOLD: dict[type, Callable[[Any], str]] = {
    effects.LossChanged: lambda effect: "alarm  what was lost",
    effects.Send: _said,
    effects.SendWatermark: lambda effect: f"say    {effect.participant} watermark {describe(effect.watermark)}",
    effects.Welcomed: lambda effect: f"say    {effect.participant} welcome",
    effects.Rejected: lambda effect: f"say    {effect.participant} goodbye (stream {effect.stream}) {effect.cause.reason}",
    effects.Answered: lambda effect: f"answer {_answered(effect.answer)}",
    effects.Got: lambda effect: f"got    {_answered(effect.answer)}",
    effects.Begun: _begun,
    effects.Watched: lambda effect: f"watch  {effect.response.state}{', the last' if effect.last else ''}",
    effects.Contradicted: lambda effect: f"tell   operators of {effect.report.participant}",
    effects.Administered: lambda effect: f"told   the operator: {_response(effect.response)}",
}


def _response(response: Message) -> str:
    return describe(response) or "done"
