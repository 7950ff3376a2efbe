"""Known-bad changes of the client, and of what carries a transaction from service to service. Each must make a test fail.

    python tests/client/client_mutants.py [PART OF A NAME]
"""

# ruff: noqa: E501 - a change stands on one line, as it stands in the source

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.mutated import SourceMutant, changes, main

CLIENT = ("tests/client",)
PAPER = ("tests/client/test_client_session.py", *CLIENT)
CALLS = (
    "tests/participant/test_carriers.py", "tests/participant/test_context.py", "tests/client/test_client_interceptors.py",
    "tests/e2e/test_onward.py",
)  # fmt: skip
MUTANTS: list[SourceMutant] = []


def _mutants(file: str, tests: tuple[str, ...], *texts: tuple[str, str, str]) -> None:
    MUTANTS.extend(changes("participant_sdk", file, tests, *texts))


_mutants(
    "client/connection", PAPER,
    ("no back-off in dialling", "seat.pause(REDIAL.delay_seconds(", "seat.pause(0 * REDIAL.delay_seconds("),
    ("the back-off never grows", "attempt = 0 if self._greeted and self._farewell is None else attempt + 1", "attempt = 0"),
    ("the back-off is never reset", "attempt = 0 if self._greeted and self._farewell is None else attempt + 1", "attempt += 1"),
    ("a coordinator that does not greet is waited for", "asyncio.timeout(GREETING_SECONDS)", "asyncio.timeout(None)"),
    ("a refusal for good is tried again", "if self._farewell is not None and reason in REFUSED_FOR_GOOD:", "if False:"),
    ("any Goodbye is for good", "reason in REFUSED_FOR_GOOD", "reason is not None"),
    ("a stream that is over is not cancelled", "                call.cancel()  # in a forked", "                pass  # in a forked"),
    ("a first frame that is no Welcome is taken", 'if frame is None or not frame.HasField("welcome"):', "if frame is None:"),
    ("a later Goodbye is not heard", "        self._peer.received(frame)\n        if frame.HasField(\"goodbye\"):", "        self._peer.received(frame)\n        if False:"),
    ("an ended connection lets callers wait", "            self._peer.refused(RequestError(Reason.INTERNAL", "            (RequestError(Reason.INTERNAL"),
)  # fmt: skip
_mutants(
    "client/session", PAPER,
    ("another session is taken for ours", "if not (welcome.resumed and welcome.session == before.name):", "if not welcome.resumed:"),
    ("a session of our name is always taken for resumed", "if not (welcome.resumed and welcome.session == before.name):", "if welcome.session != before.name:"),
    ("what is unanswered is not sent again", "                outbox.put(exchange.field, exchange.request)\n        for waiting", "                pass\n        for waiting"),
    ("questions are not asked again", '                outbox.put("gets", question.request)', "                pass"),
    ("what was on the wire counts as never sent", " not in unsent:\n                exchange.sent = True", " not in unsent:\n                pass"),
    ("what waited in the outbox counts as sent", ", exchange.number) not in unsent:", ", exchange.number) not in ():"),
    ("a new session goes on with the old numbers", "        self._next_number = 1\n\n    def _expire", "\n    def _expire"),
    ("what a lost session carried counts as never sent", "Lost.SESSION_GONE if exchange.sent else Lost.NEVER_SENT", "Lost.NEVER_SENT"),
    ("what a lost session never carried counts as sent", "Lost.SESSION_GONE if exchange.sent else Lost.NEVER_SENT", "Lost.SESSION_GONE"),
    ("a lost session is told as a restart", "Reason.COORDINATOR_RESTARTED if restarted else Reason.CLIENT_GONE", "Reason.COORDINATOR_RESTARTED"),
    ("a restart is told as a lost session", "Reason.COORDINATOR_RESTARTED if restarted else Reason.CLIENT_GONE", "Reason.CLIENT_GONE"),
    ("an abort that nobody asked for is forgotten", "        exchange.over = answer\n", ""),
    ("a place that is free is given to nobody", "            self._give_turns(1)\n        if self._emptied", "            pass\n        if self._emptied"),
    ("leaving waits the whole grace", "            self._emptied.set()", "            pass"),
    ("leaving waits for nobody", "if self._open and self._stream is not None:\n            self._emptied", "if False:\n            self._emptied"),
    ("leaving rolls nothing back", "            if exchange.request is None:\n                self.ask(exchange, \"aborts\"", "            if False:\n                self.ask(exchange, \"aborts\""),
    ("leaving lets questions wait", "                question.answer.set_result(None)", "                pass"),
    ("leaving forgets its timers", "            if handle is not None:\n                handle.cancel()", "            pass"),
    ("a deadline after sending is an abort", "        sent = exchange.sent or self._stream is not None", "        sent = False"),
    ("a deadline while the stream is away is an abort", "        sent = exchange.sent or self._stream is not None", "        sent = self._stream is not None"),
    ("a deadline before sending is unknown", "        sent = exchange.sent or self._stream is not None", "        sent = True"),
    ("a turn of somebody who left is lost", "                    self._give_turns(1)  # it was our turn", "                    pass  # it was our turn"),
    ("a turn is given to somebody who left", "            if not turn.done():\n                turn.set_result(None)\n                count -= 1", "            if not turn.done():\n                turn.set_result(None)\n            count -= 1"),
    ("who gave up stays in the line", "                self._waiting.pop(turn, None)", "                pass"),
    ("more than pending_max are open", "len(self._open) < self._pending_max and", "True and"),
    ("a closed client takes requests", "and self._refusal is None", ""),
    ("an answer is acknowledged that has not come", "return next(iter(self._open), self._next_number)", "return next(iter(self._open), self._next_number) + 1"),
    ("seen answers are never acknowledged by themselves", 'self._stream.outbox.set("answered_below", self._answered_below())', "pass"),
    ("the watermark never rides along", "            frame.data += client_pb2.ConnectRequest(answered_below=below).SerializeToString()\n", ""),
    ("the watermark rides with every frame", "            self._stream.answered_below_sent = below\n", ""),
    ("what was sent again counts as never sent", "            exchange.sent = True\n            self.counters.resent += 1", "            self.counters.resent += 1"),
    ("nothing is sent again on a live stream", "            self._stream.outbox.put(exchange.field, exchange.request)\n            # From", "            # From"),
    ("what is sent again is sent again at once", "        exchange.resends += 1\n", ""),
    ("only the first timer fires", "            self._schedule_tick(max(min(", "            (max(min("),
    ("a question that was given up is kept", "                del self._questions[request.transaction_id]", "                pass"),
    ("a question's answer goes to all who asked later", "            question = waiting.popleft()", "            question = waiting.pop()"),
    ("an answer replaces nothing of a request that follows", "        exchange.sent = False\n        exchange.resends = 0", "        exchange.resends = 0"),
    ("what lasts is never begun", "            self.say_begin(exchange)\n\n", "            pass\n\n"),
    ("a late refusal says nothing", "cause=begun.refusal)", ")"),
    ("a begin's repeat ends a wait for the commit", 'exchange.field not in ("begins", "aborts")', "False"),
    ("an abort is over when the begin is answered", 'if exchange.field == "aborts" or exchange.reply is None:', "if exchange.reply is None:"),
)  # fmt: skip
_mutants(
    "client/client", CLIENT,
    ("settling asks with nothing but the id", "client_pb2.GetRequest(**asked._asdict())", "client_pb2.GetRequest(transaction_id=asked.transaction_id)"),
    ("settling asks once", "if not _may_change(answer, asked) or loop.time() + delay >= deadline:", "if True:"),
    ("settling asks without a pause", "            await asyncio.sleep(delay)\n            attempt += 1", "            await asyncio.sleep(0)\n            attempt += 1"),
    ("settling does not back off", "            attempt += 1\n\n\ndef _run_request", "\n\ndef _run_request"),
    ("an unknown transaction is asked about for ever", "return bool(asked.participants) or answer.cause.reason != Reason.UNKNOWN_TRANSACTION.name", "return True"),
    ("what was never sent is not sent in the new session", "if reply is not Lost.NEVER_SENT:", "if True:"),
    ("what may have been sent is sent again", "if reply is not Lost.NEVER_SENT:", "if reply not in (Lost.NEVER_SENT, Lost.SESSION_GONE):"),
    ("what may have been sent is told as aborted", "if reply is Lost.DEADLINE_NEVER_SENT:", "if isinstance(reply, Lost):"),
    ("no grace", "started + terms.timeout_seconds + self.grace_seconds)", "started + terms.timeout_seconds)"),
    ("waiting for the stream does not shorten the timeout", "max(1, terms.timeout_ms - int((now() - started) * 1000))", "terms.timeout_ms"),
    ("the key is not sent", "    if terms.key:\n        request.key = terms.key\n", ""),
    ("wait is not sent", "    request.wait = terms.wait\n", ""),
    ("hold_read_locks is not sent", "    if terms.hold_read_locks:\n        request.hold_read_locks = True\n", ""),
    ("a client runs inside a block", "        refuse_nesting()\n        if not calls", "        if not calls"),
    ("a call of another client's transaction takes part", "tx is None or tx.client is not self", "tx is None"),
    ("limits are not looked at", "            checks.within_limits(request.branches, request.ByteSize(), session.limits)\n", ""),
    ("terms are not looked at", "            self.check_terms(terms, session)\n            checks", "            checks"),
    ("a client is entered twice", "if self._running is not None:\n            raise", "if False:\n            raise"),
)  # fmt: skip
_mutants(
    "client/transaction", CLIENT,
    ("an exception leaves the transaction open", "                self._ask_abort()\n        if active", "                pass\n        if active"),
    ("an exception commits", "if self._state is _State.ACTIVE and error is None:", "if self._state is _State.ACTIVE:"),
    ("the block stays current", "        _current.set(self._outer)\n", ""),
    ("calls share an id", "call_id=str(next(self._call_numbers))", 'call_id="1"'),
    ("the commit names no branches", "number=exchange.number, acknowledged=self._tally.told(), wait", "number=exchange.number, wait"),
    ("the commit begins nothing", "        if exchange.unsaid is not None:\n", "        if False:\n"),
    ("an abort names no branches", "number=exchange.number, acknowledged=self._tally.told())\n", "number=exchange.number)\n"),
    ("a commit that was never sent is unknown", "if reply in (Lost.NEVER_SENT, Lost.DEADLINE_NEVER_SENT):", "if False:"),
    ("a commit that may have been sent is aborted", "if reply in (Lost.NEVER_SENT, Lost.DEADLINE_NEVER_SENT):", "if isinstance(reply, Lost):"),
    ("a begin without an answer is not begun again", "if reply not in (Lost.NEVER_SENT, Lost.SESSION_GONE):", "if True:"),
    ("the last refusal counts", "        if self._cause is None:  # only the first one counts\n            self._cause", "        if True:\n            self._cause"),
    ("a commit has no grace of its own", "        exchange.deadline = max(exchange.deadline,", "        (exchange.deadline,"),
    ("a cancelled begin stays open", "        except asyncio.CancelledError:\n            self._ask_abort()", "        except asyncio.CancelledError:"),
    ("a transaction that is over takes calls", "        if not self._session.is_open(self._exchange):", "        if False:"),
    ("the second use begins again", "        if self._state is not _State.NEW:", "        if False:"),
    ("blocks nest", "        refuse_nesting()\n        await self.begin", "        await self.begin"),
    ("a refusal leaves the block as gRPC's error", "        if active and cause is not None:", "        if False:"),
    ("a call that failed after the commit is told as an abort", "        if active and cause is not None:", "        if cause is not None:"),
    ("waiting for the stream does not shorten a begin", "left_ms = self._terms.timeout_ms - int((loop.time() - started) * 1000)", "left_ms = self._terms.timeout_ms"),
)  # fmt: skip
_mutants(
    "client/results", CLIENT,
    ("an expired request is told as aborted", "ABORTED and not expired:", "ABORTED:"),
    ("a participant's reason is told as a wrong request", "frozenset() if cause.participant else WRONG_REQUESTS", "WRONG_REQUESTS"),
    ("HAZARD is told as unknown", "(common_pb2.OUTCOME_MIXED, common_pb2.OUTCOME_HAZARD)", "(common_pb2.OUTCOME_MIXED,)"),
    ("the hint is told twice", '.removesuffix(f" ({reason.hint})")\n\n\ndef _unknown', "\n\n\ndef _unknown"),
    ("the holder's id is not told", "answer.transaction_id or transaction_id", "transaction_id"),
    ("an expired transaction is told as unknown for now", "return unknown(Reason.EXPIRED, ", "return unknown(Reason.IN_DOUBT, "),
)  # fmt: skip
_mutants(
    "client/retry", CLIENT,
    ("what cannot pass is retried", "if not failed.retryable and not (isinstance(failed", "if False and not (isinstance(failed"),
    ("what is unknown is retried without a key", "failed.reason is not Reason.EXPIRED and self._keyed(failed)", "failed.reason is not Reason.EXPIRED"),
    ("retries come at once", "delay = RETRY.delay_seconds(self", "delay = 0 * RETRY.delay_seconds(self"),
    ("one attempt too many", "self._number + 1 >= self._attempts", "self._number >= self._attempts"),
)  # fmt: skip
_mutants(
    "client/transactional", CLIENT,
    ("each attempt is young again", "wait=wait, first_attempt_ms=first_attempt_ms)", "wait=wait)"),
    ("the key is not passed on", "timeout=timeout, key=text,", "timeout=timeout,"),
    ("what a body heard of another is asked again", "bool(self.made_by) and unknown is not self._of_another", "bool(self.made_by)"),
    ("a function under a key is not asked again", "return bool(self.made_by) and unknown", "return False and unknown"),
)  # fmt: skip
_mutants(
    "client/transactional", ("tests/client/test_client_results_under_keys.py",),
    ("what a body raises is taken for its own", "if already is self._of_another:", "if False:"),
)  # fmt: skip
_mutants(
    "client/kept", ("tests/client/test_client_results_under_keys.py",),
    ("a result is said without a key", "        if not self._key:\n", "        if False:\n"),
    ("what a function returns goes before what it says", "        if self._wire is not None:\n", "        if False:\n"),
    ("a returned value aborts where there is no room", "            self._optional = True", "            self._optional = False"),
    ("a commit that fits no frame is sent", "request.ByteSize() > limits.frame_bytes_max", "False"),
    ("a result in clear is taken by a codec", "coded.decoded_kept(key, kept.encoded, data)", "(kept.encoded and coded.decoded_kept(key, kept.encoded, data)) or data"),
    ("the function is no part of a call", "        _add(digest, part.encode())", "        pass"),
    ("the arguments are no part of a call", "            _add(digest, told)", "            pass"),
    ("a partial is the function", "while isinstance(function, functools.partial):", "while False:"),
    ("below another decorator arguments are left out", "follow_wrapped=False).bind(*args, **kwargs).arguments", "follow_wrapped=False).bind(*args, **kwargs).kwargs"),
    ("None is left out of a call", "deterministic=True) or _NONE", "deterministic=True)"),
    ("an Enum is left out of a call", "if isinstance(value, Enum):", "if False:"),
    ("a date is left out of a call", "elif isinstance(value, _WRITTEN):", "elif False:"),
    ("one object in a list leaves all of it out", "elif isinstance(value, list | tuple):", "elif False:"),
)  # fmt: skip
_mutants(
    "client/results", ("tests/client/test_client_results_under_keys.py",),
    ("a function is given what another one left", "if kept.made_by != made_by:", "if False:"),
    ("what is done is told as unreadable", "raise AlreadyCommitted(self.outcome, hint=f\"{UNREADABLE}{unreadable.message}.\") from unreadable", "raise"),
    ("None is no result", "return self._kept is not None", "return getattr(self._kept, 'value', None) is not None"),
    ("the codec is not told the key", "asked.transaction_id, coded, asked.key)", "asked.transaction_id, coded)"),
)  # fmt: skip
_mutants(
    "client/checks", ("tests/client/test_client_results_under_keys.py",),
    ("an older coordinator is left a result", "if not limits.keeps_results:", "if False:"),
    ("a large result is left", "if len(result) > limits.payload_bytes_max:", "if False:"),
)  # fmt: skip
_mutants(
    "client/checks", CLIENT,
    ("a timeout of nothing", "if not 0 < timeout <= TIMEOUT_MS_MAX / 1000:", "if not 0 <= timeout <= TIMEOUT_MS_MAX / 1000:"),
    ("a timeout is rounded down", "math.ceil(timeout * 1000)", "int(timeout * 1000)"),
    ("an empty key is none", "if not isinstance(key, str) or not key:", "if not isinstance(key, str):"),
    ("a key is measured in characters", "if key and len(key.encode()) > limits", "if key and len(key) > limits"),
    ("a first attempt in the distant past", "not 0 < first_attempt_ms < 2**63", "not 0 <= first_attempt_ms < 2**63"),
    ("operations are counted over all branches", "    count = len(branch.operations)\n", "    count = 0\n"),
    ("arguments are not measured", "    if size > limits.payload_bytes_max:\n", "    if False:\n"),
    ("participants are not counted", "if len(branches) > limits.participants_max:", "if False:"),
)  # fmt: skip
_mutants(
    "carriers", CALLS,
    ("a failed call counts", "                    done.count = 0\n", "                    pass\n"),
    ("a lost answer says nothing", "if not told and nobody_knows:", "if False:"),
    ("a call that broke was none", "            carried.lost()\n            raise\n        if call", "            carried.over()\n            raise\n        if call"),
    ("a call that succeeded tells a cause", "elif not succeeded and name == CAUSE_KEY:", "elif name == CAUSE_KEY:"),
    ("a retryable refusal hides a grave one", "return min(told, key=lambda cause: cause.retryable)", "return max(told, key=lambda cause: cause.retryable)"),
    ("a bug beside a refusal is hidden", "if len(told) == len(causes) else None", "if told else None"),
    ("the caller's own metadata is dropped", "grpc.aio.Metadata(*own, *headers_of", "grpc.aio.Metadata(*headers_of"),
    ("a blocking call drops the caller's metadata", "(*(details.metadata or ()), *headers_of(carried))", "tuple(headers_of(carried))"),
    ("blocking calls are not counted", "        uncounted.add(call, carried)\n", ""),
    ("a blocking call is counted twice", "                del self._calls[key]\n", "                pass\n"),
    ("a blocking call loses its timeout", '        return cls(**{**kept, "metadata": metadata})', '        return cls(**{**kept, "metadata": metadata, "timeout": None})'),
    ("bytes that are no message say nothing", "value, client_pb2.AcknowledgedOperations(unknown=True))", "value, client_pb2.AcknowledgedOperations())"),
)  # fmt: skip
_mutants(
    "tally", CALLS,
    ("acknowledged operations are not added up", "self._done.get(key, 0) + operations", "operations"),
    ("what came back is counted once", "self._done.get(key, 0) + operations", "self._done.get(key, 0) + 1"),
    ("incarnations are not told apart", "self.add(done.participant, done.count, done.incarnation)", "self.add(done.participant, done.count, 0)"),
    ("a call that has not ended is none", "if self._unknown or self._under_way:", "if self._unknown:"),
    ("a call of which nothing came back is none", "if self._unknown or self._under_way:", "if self._under_way:"),
)  # fmt: skip
_mutants(
    "context", CALLS,
    ("calls onward share an id", 'onward.call_id = f"{self.context.call_id}>{index}"', 'onward.call_id = f"{self.context.call_id}>"'),
    ("a call onward has the id of its caller", '        onward.call_id = f"{self.context.call_id}>{index}"\n', ""),
    ("what came back from onward is dropped", "            self._tally.count(done)\n", "            pass\n"),
    ("blocking calls are not looked at again", "        self.uncounted.count()\n        with self._lock:", "        with self._lock:"),
    ("a handler's refusal names nobody", "cause = cause_within(error, participant)", "cause = cause_within(error)"),
    ("a refusal from onward stays gRPC's error", "except Exception as error:\n            await _abort(servicer_context, error, participant)\n\n    return handle\n\n\ndef _generator", "except RequestError as error:\n            await _abort(servicer_context, error, participant)\n\n    return handle\n\n\ndef _generator"),
    ("a stream's refusal from onward stays gRPC's error", "except Exception as error:\n            await _abort(servicer_context, error, participant)\n\n    return handle\n\n\ndef _function_in_scope", "except RequestError as error:\n            await _abort(servicer_context, error, participant)\n\n    return handle\n\n\ndef _function_in_scope"),
    ("a context without a transaction is taken", "if not context.transaction_id or not context.call_id:", "if not context.call_id:"),
    ("the first of two contexts is taken", "_carried(metadata)[-1]", "_carried(metadata)[0]"),
    ("a handler's own trailing metadata is dropped", "self._reported = (*others, *self.trailers())", "self._reported = self.trailers()"),
    ("handlers are kept without end", "if len(self._known) >= HANDLERS_KEPT_MAX:", "if False:"),
    ("another handler of the same method is not noticed", "if known is None or known[0] is not handler:", "if known is None:"),
    ("messages are not cut", "cause.message = cause.message[:CAUSE_MESSAGE_CHARACTERS_MAX]", "pass"),
)  # fmt: skip

HTTP = ("tests/frameworks/test_headers.py", "tests/frameworks/test_http.py")
_mutants(
    "frameworks/clients", HTTP,
    ("a silent success is believed", "    silent = succeeded and not told\n", "    silent = False\n"),
    ("a failed HTTP call counts", "    succeeded = status < FAILED_FROM\n", "    succeeded = True\n"),
    ("a lost HTTP answer of requests was none", "            carried.lost()\n            raise\n", "            carried.over()\n            raise\n"),
    ("what a gateway says is the service's word", "carried.ended(succeeded, told, nobody_knows(status))", "carried.ended(succeeded, told, False)"),
)  # fmt: skip
_mutants(
    "frameworks/calls", HTTP,
    ("a refusal over HTTP says nothing of the work", "                told.headers.append(self._acknowledged())", "                pass"),
)  # fmt: skip
_mutants(
    "frameworks/calls", ("tests/frameworks/test_late_work.py",),
    ("blocking calls of a handler that have ended are under way", "        self._scope.uncounted.count()\n", ""),
)  # fmt: skip
_mutants(
    "frameworks/wsgi", ("tests/frameworks/test_late_work.py",),
    ("an error in a body is kept back", "        if self._said is not None:  #", "        if False:  #"),
)  # fmt: skip
_mutants(
    "at_work", ("tests/frameworks/test_late_work.py", "tests/frameworks/test_http.py"),
    ("an answer begins while a block is open", "            if not self._open:", "            if True:"),
    ("a branch that was kept works on", "            if not self.over:", "            if True:"),
    ("work begins beside the vote", "                self.over = True\n                return", "                return"),
)  # fmt: skip
EARLY = ("tests/frameworks/test_early.py",)
_mutants(
    "frameworks/calls", EARLY,
    ("nobody votes when an HTTP answer begins", "                await self._scope.end()\n", "                pass\n"),
    ("nobody votes when the answer of a thread begins", "                self._scope.end_in_thread()\n", "                pass\n"),
    ("a failed HTTP call votes", "            if status < FAILED_FROM:\n                await", "            if True:\n                await"),
)  # fmt: skip
_mutants("early", EARLY, ("votes are never too large", "        if length <= ACKNOWLEDGED_BYTES_MAX:", "        if True:"))
_mutants(
    "client/sync", ("tests/client/test_sync_client.py",),
    ("a synchronous block stays current", "        finally:\n            tx.leave()", "        finally:\n            pass"),
    ("a synchronous client keeps its loop", "            finally:\n                background.give_back()\n", "            finally:\n                pass\n"),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(MUTANTS))
