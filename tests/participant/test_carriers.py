"""What carries a transaction from call to call: which cause is told, what is counted, and what a caller's own call keeps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from participant_sdk.carriers import Carried, call_ended, cause_within
from participant_sdk.context import Scope, current_scope, entered, onward_carriers, onward_sync_carriers, parse_context
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY
from participant_sdk.tally import Tally
from troth.errors import Refuse
from troth.v1 import client_pb2, common_pb2

CONTEXT = common_pb2.TransactionContext(transaction_id="c1.1.00112233.1.7", first_attempt_ms=5, call_id="c7")
GRAVE = Refuse("NO_FUNDS", "too little")
PASSING = Refuse("BUSY", "later", retryable=True)


class FailedCall(grpc.RpcError):
    """A call of a service that failed, with trailing metadata."""

    def __init__(self, *trailing: tuple[str, bytes]) -> None:
        self._trailing = trailing

    def trailing_metadata(self) -> Any:
        return self._trailing


def refused(code: str, *, retryable: bool = False) -> FailedCall:
    cause = common_pb2.Cause(reason="REFUSED", code=code, participant="c", retryable=retryable)
    return FailedCall((CAUSE_KEY, cause.SerializeToString()))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GRAVE, "NO_FUNDS"),
        (refused("X"), "X"),
        (ExceptionGroup("", [PASSING, GRAVE]), "NO_FUNDS"),
        (ExceptionGroup("", [GRAVE, PASSING]), "NO_FUNDS"),
        (ExceptionGroup("", [PASSING, ExceptionGroup("", [refused("Y", retryable=True), refused("X")])]), "X"),
        (ExceptionGroup("", [GRAVE, LookupError("a bug")]), None),
        (FailedCall(), None),
        (LookupError("a bug"), None),
        (None, None),
    ],
)
def test_which_cause_an_error_tells(error: BaseException | None, code: str | None) -> None:
    cause = cause_within(error, "b")
    assert (cause and cause.code) == code
    assert cause is None or cause.participant == ("c" if code in ("X", "Y") else "b")


def test_a_call_that_succeeded_tells_no_cause_and_one_that_failed_counts_nothing() -> None:
    told: list[Any] = []
    transaction = Carried(common_pb2.TransactionContext, told.append, told.append, lambda: told.append("over"))
    trailing = (acknowledged("c", 2), (CAUSE_KEY, common_pb2.Cause(code="X").SerializeToString()))
    call_ended(transaction, grpc.StatusCode.OK, trailing)
    done = client_pb2.AcknowledgedOperations(participant="c", count=2)
    assert told == [done, "over"]
    told.clear()
    call_ended(transaction, grpc.StatusCode.ABORTED, trailing)
    assert told == [client_pb2.AcknowledgedOperations(participant="c"), common_pb2.Cause(code="X"), "over"], "it names the branch"


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE])
def test_of_a_call_that_failed_no_vote_is_taken(code: grpc.StatusCode) -> None:
    """What somebody between made an error of, after the service had voted, was not seen to succeed."""
    tally = Tally()
    tally.call_begins()
    vote = common_pb2.SealedVote(vote=b"yes", seal=b"seal")
    done = client_pb2.AcknowledgedOperations(participant="c", count=2, incarnation=1, vote=vote)
    carried = Carried(common_pb2.TransactionContext, tally.count, lambda cause: None, tally.call_ends)
    call_ended(carried, code, ((ACKNOWLEDGED_KEY, done.SerializeToString()),))
    (told,) = tally.told()
    succeeded = code is grpc.StatusCode.OK
    assert (told.count, told.HasField("vote")) == (2 if succeeded else 0, succeeded)


LOST = client_pb2.AcknowledgedOperations(unknown=True)


@pytest.mark.parametrize(
    ("code", "trailing", "unknown"),
    [
        (grpc.StatusCode.OK, (), False),
        (grpc.StatusCode.OK, (ACKNOWLEDGED_KEY, b""), False),
        (grpc.StatusCode.OK, (ACKNOWLEDGED_KEY, b"\x0a\x01c\xff"), True),
        (grpc.StatusCode.NOT_FOUND, (), False),
        (grpc.StatusCode.UNAVAILABLE, (), True),
        (grpc.StatusCode.UNAVAILABLE, (ACKNOWLEDGED_KEY, b""), False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, (CAUSE_KEY, b""), False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ("x-other", b""), True),
        (grpc.StatusCode.CANCELLED, (), True),
    ],
)
def test_a_call_of_which_nothing_came_back_may_have_done_anything(code: Any, trailing: Any, unknown: bool) -> None:
    tally = Tally()
    tally.call_begins()
    assert tally.told() == [LOST], "it has not ended"
    carried = Carried(common_pb2.TransactionContext, tally.count, lambda cause: None, tally.call_ends)
    call_ended(carried, code, (trailing,) if trailing else ())
    assert tally.told() == [LOST] * unknown


def test_a_call_that_ends_without_a_status_may_have_done_anything() -> None:
    def breaks(details: Any, request: Any) -> Any:
        raise LookupError

    (carrier,) = onward_sync_carriers()
    details = SimpleNamespace(method="/a/B", timeout=None, metadata=None, credentials=None)
    with entered(CONTEXT) as scope:
        with pytest.raises(LookupError):
            carrier.intercept_unary_unary(breaks, details, b"")
        assert scope.acknowledgements == [LOST]


async def test_a_call_that_another_interceptor_breaks_may_have_done_anything() -> None:
    async def breaks(details: Any, request: Any) -> Any:
        raise LookupError

    carrier = onward_carriers()[0]
    details = grpc.aio.ClientCallDetails("/a/B", None, None, None, None)
    with entered(CONTEXT) as scope:
        with pytest.raises(LookupError):
            await carrier.intercept_unary_unary(breaks, details, b"")
        assert scope.acknowledgements == [LOST]


def test_work_of_two_incarnations_is_told_apart() -> None:
    tally = Tally()
    for incarnation in (2, 1, 2):
        tally.count(client_pb2.AcknowledgedOperations(participant="c", count=1, incarnation=incarnation))
    tally.add("d", 0, 1)
    assert tally.counts == {"c": 3} and tally.participants == ("c", "d")
    assert [(one.participant, one.count, one.incarnation) for one in tally.told()] == [("c", 1, 1), ("c", 2, 2), ("d", 0, 1)]


class BlockingCall:
    """A call of the blocking API that has ended."""

    def __init__(self, code: grpc.StatusCode, *trailing: tuple[str, bytes]) -> None:
        self._code, self._trailing = code, trailing
        self.callbacks: list[Any] = []

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> Any:
        return self._trailing

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)


def acknowledged(participant: str, count: int) -> tuple[str, bytes]:
    message = client_pb2.AcknowledgedOperations(participant=participant, count=count)
    return ACKNOWLEDGED_KEY, message.SerializeToString()


def carried(call: BlockingCall, details: Any = None) -> Any:
    """Make a blocking call through the carrier; returns the details with which it was made."""
    (carrier,) = onward_sync_carriers()
    seen = []
    details = details or SimpleNamespace(method="/a/B", timeout=None, metadata=None, credentials=None)
    carrier.intercept_unary_unary(lambda made, request: seen.append(made) or call, details, b"")
    return seen[0]


def test_a_blocking_call_is_counted_once_whoever_looks_first() -> None:
    for callback_first in (True, False):
        with entered(CONTEXT) as scope:
            call = BlockingCall(grpc.StatusCode.OK, acknowledged("c", 2), acknowledged("d", 1), acknowledged("c", 1))
            carried(call)
            if callback_first:
                call.callbacks[0](call)
            assert scope.counts == {"c": 3, "d": 1}, "gRPC wakes the caller before it runs the callback"
            call.callbacks[0](call)
            scope.report()
            assert scope.counts == {"c": 3, "d": 1}


def test_what_a_handler_reports_is_looked_for_once_more() -> None:
    trailing: list[Any] = [()]
    servicer = SimpleNamespace(trailing_metadata=lambda: trailing[-1], set_trailing_metadata=trailing.append)
    scope = Scope(CONTEXT, servicer)
    counted = scope.carried()
    counted.context()
    scope.uncounted.add(BlockingCall(grpc.StatusCode.OK, acknowledged("c", 2)), counted)
    scope.report()
    assert trailing[-1] == (acknowledged("c", 2),), "gRPC has not run the callback yet"


def test_a_blocking_call_that_failed_counts_nothing() -> None:
    with entered(CONTEXT) as scope:
        carried(BlockingCall(grpc.StatusCode.ABORTED, acknowledged("c", 2)))
        carried(BlockingCall(grpc.StatusCode.OK, (ACKNOWLEDGED_KEY, b"\x0a\x01c\xff")))
        assert scope.counts == {}
        assert scope.acknowledgements == [client_pb2.AcknowledgedOperations(participant="c"), LOST]


def test_a_call_keeps_what_its_caller_asked_for() -> None:
    asked = SimpleNamespace(method="/a/B", timeout=1.5, metadata=(("x-mine", "1"),), credentials="mine", wait_for_ready=True)
    with entered(CONTEXT):
        first, second = (carried(BlockingCall(grpc.StatusCode.OK), asked) for _ in range(2))
    assert (first.method, first.timeout, first.credentials, first.wait_for_ready) == ("/a/B", 1.5, "mine", True)
    assert ("x-mine", "1") in first.metadata
    contexts = [parse_context(details.metadata) for details in (first, second)]
    assert [context.call_id for context in contexts] == ["c7>0", "c7>1"]
    assert {(context.transaction_id, context.first_attempt_ms) for context in contexts} == {(CONTEXT.transaction_id, 5)}


def test_outside_of_a_transaction_a_call_is_made_as_it_is() -> None:
    details = SimpleNamespace(method="/a/B", timeout=None, metadata=None, credentials=None)
    assert carried(BlockingCall(grpc.StatusCode.OK), details) is details
    assert current_scope() is None


def test_the_last_of_several_contexts_counts() -> None:
    other = common_pb2.TransactionContext(transaction_id="c1.1.00112233.1.8", call_id="c8")
    metadata = ((CONTEXT_KEY, CONTEXT.SerializeToString()), (CONTEXT_KEY, other.SerializeToString()))
    assert parse_context(metadata) == other
