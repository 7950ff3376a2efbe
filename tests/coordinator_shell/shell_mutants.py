"""Known-bad changes of the daemon's services, the thin layer between gRPC and the core. Each must make a test fail.

Three that were tried are not here, since they break no promise: an incarnation of 0 and a log without an id are refused by the core
as well, and what comes behind a violation is not heard anyway, because the stream is ending.

    python tests/coordinator_shell/shell_mutants.py [PART OF A NAME]
"""

# ruff: noqa: E501 - a change stands on one line, as it stands in the source

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.mutated import SourceMutant, changes, main

SHELL = "tests/coordinator_shell"
STREAMS = (f"{SHELL}/test_shell_streams.py", f"{SHELL}/test_shell_outbox.py", SHELL)
UNARY = (f"{SHELL}/test_shell_unary.py", SHELL)
BOUNDS = (f"{SHELL}/test_shell_bounds.py", SHELL)
MUTANTS: list[SourceMutant] = []


def _mutants(file: str, tests: tuple[str, ...], *texts: tuple[str, str, str]) -> None:
    MUTANTS.extend(changes("coordinator/services", file, tests, *texts))


_mutants(
    "sessions", STREAMS,
    ("a session is resumed by its name alone", "secrets.compare_digest(known.token, hello.token)", "True"),
    ("a resumed session is told that it is new", "            return known, True", "            return known, False"),
    ("sessions are not bounded", "if len(self._sessions) >= self._context.config.core.sessions_max:", "if False:"),
    ("a resumed session ends all the same", "            session.expiry.cancel()\n            session.expiry = None", "            session.expiry = None"),
    ("the older stream of a session stays", '            session.stream.end(status.cause(Reason.SUPERSEDED_STREAM, "a newer stream of this session took over"))', "            pass"),
    ("a second ClientHello is passed over", '                raise RemoteProtocolError("a second ClientHello on one stream")', "                pass"),
    ("the older stream's end is taken for the session's", "            return  # a newer stream has taken over", "            pass"),
    ("the core does not hear that a session is lost", "        self._context.submit(events.SessionLost(session.name))", "        pass"),
    ("a session that nobody resumes is kept", "        session.expiry = asyncio.get_running_loop().call_later(linger, self._sessions.pop, session.name, None)", "        session.expiry = asyncio.get_running_loop().call_later(linger, int)"),
    ("work begins before what ends some", "(events.Commit, commits), (events.Abort, aborts), (session.run, frame.runs), (session.begin, frame.begins),", "(session.run, frame.runs), (session.begin, frame.begins), (events.Commit, commits), (events.Abort, aborts),"),
    ("a request without a number is taken", "            if event.request.number == 0:", "            if False:"),
    ("a session ends the transactions of others", '        if transaction_id and transaction_id != f"{session}.{request.number}":', "        if False:"),
    ("answers are never acknowledged", "        if frame.answered_below:", "        if False:"),
    ("an answer too large for a frame goes with its results", "        if answer.ByteSize() > self._answer_bytes_max and answer.results:", "        if False:"),
    ("who asked something illegal is not answered", "        if session is not None and request is not None:", "        if False:"),
    ("an answer does not say what was asked", "answer=answer, transaction_id=self._asked)", "answer=answer)"),
    ("a daemon that ends says no Goodbye to clients", "                session.stream.end(cause)\n\n    def open_streams", "                pass\n\n    def open_streams"),
)  # fmt: skip
_mutants(
    "participants", STREAMS,
    ("a second Hello is passed over", '            raise RemoteProtocolError("a second Hello on one stream")', "            pass"),
    ("the end of a list is not heard without reports", "        if frame.reports or frame.reports_complete:", "        if frame.reports:"),
    ("positions are not heard", "events.FromParticipant(name, number, message, position)", "events.FromParticipant(name, number, message, 0)"),
    ("the position beside Hello is not heard", "frame.hello, frame.position))", "frame.hello, 0))"),
    ("who only asks stays connected", "        self._welcome(heard)\n        self.stream.finish()", "        self._welcome(heard)"),
    ("Welcome does not say how far it was heard", "            heard=heard,", "            heard=0,"),
    ("what rides with Hello is dropped", "        one.submit(frame)\n", ""),
    ("the core does not hear that a participant is lost", "            self._context.submit(events.ParticipantLost(name, one.number))", "            pass"),
    ("streams are kept", "            self._streams.pop(one.number, None)", "            pass"),
    ("who is rejected stays connected", "            one.stream.end(effect.cause)", "            pass"),
    ("who breaks the protocol stays connected", "        one.stream.broke(error)\n", ""),
    ("no room is a violation", "        if error.reason is Reason.OVERLOADED:", "        if False:"),
    ("nothing is patient", "one.put(effect.field, effect.message, patient=effect.patient)", "one.put(effect.field, effect.message)"),
    ("a daemon that ends says no Goodbye to participants", "        for one in list(self._streams.values()):\n            one.stream.end(cause)", "        pass"),
    ("names of operations are not bounded", "    if sum(map(len, hello.operations)) > OPERATION_NAMES_CHARACTERS_MAX:", "    if False:"),
)  # fmt: skip
_mutants(
    "streams", (*STREAMS[:2], *BOUNDS),
    ("whoever reads nothing stays", "        if self._moving_since is not None and self._is_stuck(self._moving_since):", "        if False:"),
    ("many messages alone end a stream", "        return asyncio.get_running_loop().time() - since > self._context.config.shell.goodbye_seconds", "        return True"),
    ("what waits is sent before a Goodbye", "            self.outbox.clear()\n", ""),
    ("a Goodbye may take for ever", "            self._limit_farewell()\n\n    def tell", "            pass\n\n    def tell"),
    ("a stream that is over holds its place", "            self._context.outboxes.remove(self)", "            pass"),
    ("what comes after the end is heard", "        if self.ending:\n            return\n        try:", "        try:"),
    ("an internal error on a stream is told to the peer", '            self.end(status.cause(Reason.INTERNAL, "internal error on this stream"))', "            self.end(status.cause(Reason.INTERNAL, str(error)))"),
    ("an internal error on a stream is not counted", "            self._context.counters.internal_errors += 1", "            pass"),
    ("malformed frames are not counted", "        self._context.counters.malformed_frames += 1", "        pass"),
    ("who broke a rule may not come back", "        cause.retryable = True\n        self.end(cause)\n\n\ndef", "        self.end(cause)\n\n\ndef"),
    ("silence instead of Hello may last", "        async with asyncio.timeout(seconds):\n            async for", "        async with asyncio.timeout(None):\n            async for"),
    ("any version is spoken", "    if offered.lowest <= PROTOCOL_VERSION <= offered.highest:", "    if True:"),
    ("a frame that the transport has not taken is not counted", "        return self.outbox.held_bytes + self._moving_bytes", "        return self.outbox.held_bytes"),
)  # fmt: skip
_mutants(
    "outboxes", BOUNDS,
    ("outboxes are not bounded together", "        if held <= self._bytes_max:\n            return\n        for", "        return\n        for"),
    ("all are sent away", "            if held <= self._bytes_max:\n                return\n", ""),
    ("who holds least is sent away", "reverse=True)", "reverse=False)"),
)  # fmt: skip
_mutants(
    "crowd", BOUNDS,
    ("nobody is refused", "        if self._inside[name] >= limit:", "        if False:"),
    ("one more than allowed", "        if self._inside[name] >= limit:", "        if self._inside[name] > limit:"),
    ("places are not given back", "            for name in taken:\n                self.leave(name)", "            pass"),
    ("names of empty places are kept", "        self._inside[name] -= 1\n        if not self._inside[name]:\n            del self._inside[name]", "        self._inside[name] -= 1"),
    ("callers take the places of operators", '            return self.crowd.places([("operators", OPERATORS_CALLS_MAX, "calls of operators")])', '            return self.crowd.places([("calls", settings.calls_max, "calls")])'),
    ("streams take the places of unary calls", "        if waits:\n", "        if True:\n"),
    ("watches of one transaction are not bounded", '            (f"of {transaction_id}", settings.transaction_watches_max, "watches of one transaction (transaction_watches_max)"),\n', ""),
    ("watches over one connection are not bounded", '            (f"over {peer}", settings.connection_watches_max, "watches over one connection (connection_watches_max)"),\n', ""),
)  # fmt: skip
_mutants(
    "status", UNARY,
    ("messages are not cut", '[:MESSAGE_CHARACTERS_MAX]', ""),
    ("who may come back is not told when", "    if reason in _WAIT_FIRST and cause.retryable:", "    if False:"),
    ("an outcome that is none is told as an abort", "    reason = _NOT_DONE.get(answer.outcome, Reason.INTERNAL)", "    reason = Reason.ROLLED_BACK"),
    ("an expired request is told as aborted", '        return "EXPIRED"\n', '        return "ABORTED"\n'),
    ("an abort is told as a success", "    if answer.outcome == wanted:", "    if answer.outcome in (wanted, common_pb2.OUTCOME_ABORTED):"),
    ("no transaction is named", '"transaction_id": transaction_id, "outcome"', '"transaction_id": "", "outcome"'),
)  # fmt: skip
_mutants(
    "guard", UNARY,
    ("a message of any size is decoded", "            if len(raw) > self._bytes_max:", "            if False:"),
    ("the text of an exception is told", 'f"internal error {error_id}"', 'f"internal error {error}"'),
    ("internal errors are not counted", "            self._counters.internal_errors += 1\n            error_id", "            error_id"),
    ("unary calls are not counted", "                self._counters.unary_calls += 1\n", ""),
)  # fmt: skip
_mutants(
    "transactions", UNARY,
    ("only one caller of a commit is answered", "        for future in self._waiting.pop(number, ()):\n            if not future.done():\n                future.set_result(response)", "        for future in self._waiting.pop(number, ())[:1]:\n            if not future.done():\n                future.set_result(response)"),
    ("who asked something illegal waits for ever", "            if not future.done():\n                future.set_exception(error)\n\n\nclass Watcher", "            pass\n\n\nclass Watcher"),
    ("an aborted run is a success", "        await _check(answer, common_pb2.OUTCOME_COMMITTED, context)\n        return client_pb2.RunResponse", "        return client_pb2.RunResponse"),
    ("an aborted commit is a success", "        await _check(answer, common_pb2.OUTCOME_COMMITTED, context)\n        return client_pb2.CommitResponse", "        return client_pb2.CommitResponse"),
    ("an abort that came too late is a success", "        await _check(answer, common_pb2.OUTCOME_ABORTED, context)\n", ""),
    ("a watch never ends", "            if self._last:\n                return", "            if False:\n                return"),
    ("a refused begin is a success", '        if response.HasField("refusal"):', "        if False:"),
    ("a trace in metadata is dropped", "            if key in TRACE_METADATA:", "            if False:"),
)  # fmt: skip
_mutants(
    "guard", (f"{SHELL}/test_shell_let_go.py",),
    ("what a stream reads with is not closed", "async with aclosing(aiter(requests)) as incoming:\n            await", "if incoming := requests:\n            await"),
    ("the error of a call keeps its frames", "        error.__traceback__ = None\n", ""),
    ("the end of a call keeps its request", "                del request\n                await", "                await"),
)  # fmt: skip
_mutants(
    "guard", (f"{SHELL}/test_shell_bounds.py",),
    ("messages of frames and calls are not counted", "check_count(message, self._messages_max)\n", "pass\n"),
)
_mutants(
    "admin", (f"{SHELL}/test_shell_features.py",),
    ("an order that needs what is held back is carried out", "        for name in features.needed(request):", "        for name in ():"),
)
_CELL = (f"{SHELL}/test_shell_cell.py",)
MUTANTS.extend(changes(
    "coordinator/cell", "forwarding", _CELL,
    ("an order is passed on to a node that takes it for another one", "        if not lacking:", "        if True:"),
    ("what an older node does not keep is left out unasked", "isinstance(request, client_pb2.CommitRequest) and request.result_optional", "isinstance(request, client_pb2.CommitRequest)"),
    ("a result that may be left out is a reason to refuse", "            return plain", "            pass"),
))  # fmt: skip
MUTANTS.extend(changes(
    "coordinator/cli", "calling", ("tests/cli/test_cli_older.py",),
    ("an order is given to an older coordinator", "        if features.needed(request):\n            self._check_used", "        if False:\n            self._check_used"),
    ("what is held back counts as used", "one.name for one in told if not one.held_back", "one.name for one in told"),
    ("a call that nobody knows is told in gRPC's words", "    if error.code() is grpc.StatusCode.UNIMPLEMENTED:", "    if False:"),
))  # fmt: skip
MUTANTS.extend(changes(
    "troth", "newer", ("tests/common/test_newer.py",),
    ("an unknown value is read", "        if value not in values:", "        if False:"),
    ("an unknown kind is read", "    if kind is None:", "    if False:"),
))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(MUTANTS))
