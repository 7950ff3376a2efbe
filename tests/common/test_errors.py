"""Errors: every reason says what to do, and the tree is as it is drawn."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import grpc
import pytest

from participant_sdk.client.results import AlreadyCommitted, Committed
from troth import errors
from troth.errors import Reason, TrothError
from troth.log.schema import DamagedAt
from troth.v1 import client_pb2, common_pb2

CODES = {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.name)
def test_every_reason_has_a_code_and_a_hint(reason: Reason) -> None:
    assert reason.grpc_code in CODES
    assert reason.hint.endswith((".", "?", "`"))
    assert isinstance(reason.retryable, bool)


def test_an_error_ends_with_what_to_do() -> None:
    error = TrothError(Reason.LOG_FAILED, "the disk is full")
    assert str(error) == f"LOG_FAILED: the disk is full ({Reason.LOG_FAILED.hint})"
    assert "mend it" in str(TrothError(Reason.LOG_FAILED, "x", hint="mend it"))


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    def draw(kind: type[BaseException]) -> set[tuple[str, str]]:
        children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
        return {(kind.__name__, child.__name__) for child in children}.union(*(draw(child) for child in children))

    drawn: set[tuple[str, str]] = set()
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        words = line.lstrip(" │├└─").split()
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4
        if not words or not line.startswith("    ") or depth > len(above) + 1:
            continue
        above[depth - 1 :] = [words[0]]
        if depth > 1:
            drawn.add((above[depth - 2], words[0]))
    assert drawn == draw(TrothError)


@pytest.mark.parametrize("kind", [errors.Aborted, errors.HeuristicOutcome])
def test_what_a_client_learns(kind: type[errors.TransactionError]) -> None:
    error = kind(Reason.CONFLICT, "busy", transaction_id="t", participant="payments", code="X")
    assert (error.transaction_id, error.participant, error.code, error.retryable) == ("t", "payments", "X", True)
    assert kind(Reason.CONFLICT, "busy", retryable=False).retryable is False


def test_an_unknown_outcome_is_never_retryable_and_says_what_settles_it() -> None:
    error = errors.OutcomeUnknown(Reason.CONFLICT, "lost", transaction_id="t", participants=("a", "b"), first_attempt_ms=5)
    assert (error.transaction_id, error.participants, error.first_attempt_ms) == ("t", ("a", "b"), 5)
    assert not error.retryable


def test_refuse_carries_the_applications_code() -> None:
    refusal = errors.Refuse("NO_FUNDS")
    assert (refusal.reason, refusal.code, refusal.message, refusal.retryable) == (
        Reason.REFUSED, "NO_FUNDS", "NO_FUNDS", False,
    )  # fmt: skip
    assert errors.Refuse("BUSY", "try later", retryable=True).retryable


def test_protocol_and_config_errors_have_their_reasons() -> None:
    assert errors.ProtocolError("x").reason is Reason.PROTOCOL_ERROR
    assert errors.RemoteProtocolError("x", reason=Reason.STALE_EPOCH).reason is Reason.STALE_EPOCH
    assert errors.ConfigError("x", hint="y").reason is Reason.CONFIG


def _every_kind(kind: type[TrothError] = TrothError) -> Iterator[type[TrothError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.partition(".")[0] in ("troth", "coordinator", "participant_sdk"):
            yield from _every_kind(child)


def _one_of(kind: type[TrothError]) -> TrothError:
    if kind is AlreadyCommitted:
        answer = client_pb2.Answer(transaction_id="t", outcome=common_pb2.OUTCOME_COMMITTED, replayed=True)
        return AlreadyCommitted(Committed(answer, ""))
    if issubclass(kind, errors.Refuse):
        return kind("NO_FUNDS", "too little", retryable=True)
    if kind is DamagedAt:
        return DamagedAt(Path("log.db"), "record 7", "cut")
    if issubclass(kind, (errors.ProtocolError, errors.ConfigError)):
        return kind("wrong")
    return kind(Reason.CONFLICT, "busy")


@pytest.mark.parametrize("kind", sorted(set(_every_kind()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_error_can_be_pickled_and_copied(kind: type[TrothError]) -> None:
    error = _one_of(kind)
    error.add_note("seen")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind and str(again) == str(error) and again.args == error.args
        assert str(vars(again)) == str(vars(error))


def _aborts() -> None:
    raise errors.Aborted(Reason.REFUSED, "too little", transaction_id="t", participant="payments", code="NO_FUNDS")


def test_an_abort_reaches_whoever_waits_for_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(errors.Aborted) as caught:
            pool.submit(_aborts).result()
        assert (caught.value.participant, caught.value.code, caught.value.transaction_id) == ("payments", "NO_FUNDS", "t")
        assert pool.submit(len, "it lives").result() == 8


def test_the_text_of_an_error_names_who_and_which_code() -> None:
    error = errors.Aborted(Reason.REFUSED, "too little", participant="payments", code="NO_FUNDS")
    assert str(error) == f"REFUSED [payments NO_FUNDS]: too little ({Reason.REFUSED.hint})"
    assert str(errors.Aborted(Reason.CONFLICT, "busy", participant="payments")).startswith("CONFLICT [payments]: busy")
    assert str(errors.Refuse("NO_FUNDS", "too little")).startswith("REFUSED [NO_FUNDS]: too little")


def test_a_hint_of_its_own_replaces_the_reasons() -> None:
    assert str(errors.Aborted(Reason.OVERLOADED, "full", hint="Wait.")) == "OVERLOADED: full (Wait.)"
    assert errors.RequestError(Reason.UNKNOWN_OPERATION, "x", participant="p").participant == "p"
