"""Errors: every reason says what to do, and the tree is as it is drawn."""

from __future__ import annotations

import grpc
import pytest

from troth import errors
from troth.errors import Reason, TrothError

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
