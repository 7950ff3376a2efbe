"""Seals: a vote that went through a client's hands is the participant's, or counts for nothing."""

from __future__ import annotations

import pytest

from troth.seals import opened, proof_of, seal_key, sealed
from troth.v1 import common_pb2, participant_pb2

VOTE = participant_pb2.EarlyVote(transaction_id="c1.1.9f2c4e1a.1.3", incarnation=2, operation_count=1, position=7)
KEY = seal_key(b"s" * 32, "orders", "log-1")


def test_a_sealed_vote_opens_with_the_key_that_sealed_it() -> None:
    assert opened(KEY, sealed(KEY, VOTE)) == VOTE


@pytest.mark.parametrize(
    "key",
    [
        seal_key(b"s" * 32, "orders", "log-2"),
        seal_key(b"s" * 32, "payments", "log-1"),
        seal_key(b"t" * 32, "orders", "log-1"),
        b"",
    ],
    ids=["another log", "another name", "another life", "no key"],
)
def test_it_opens_with_no_other(key: bytes) -> None:
    assert opened(key, sealed(KEY, VOTE)) is None


def test_what_was_changed_or_made_up_does_not_open() -> None:
    told = sealed(KEY, VOTE)
    more = participant_pb2.EarlyVote(transaction_id=VOTE.transaction_id, incarnation=2, operation_count=2, position=7)
    assert opened(KEY, common_pb2.SealedVote(vote=more.SerializeToString(), seal=told.seal)) is None
    assert opened(KEY, common_pb2.SealedVote(vote=told.vote, seal=told.seal[:-1])) is None
    assert opened(KEY, common_pb2.SealedVote(vote=told.vote)) is None
    assert opened(KEY, common_pb2.SealedVote()) is None


def test_what_is_no_vote_does_not_open_though_its_seal_fits() -> None:
    import hmac

    body = b"\xff\xff"
    assert opened(KEY, common_pb2.SealedVote(vote=body, seal=hmac.digest(KEY, body, "sha256"))) is None


def test_without_a_secret_there_is_no_key() -> None:
    assert seal_key(b"", "orders", "log-1") == b""


def test_a_proof_is_of_one_transaction_and_one_session() -> None:
    proofs = {proof_of(token, name) for token in (b"one", b"two") for name in ("c1.1.0a0b0c0d.1.1", "c1.1.0a0b0c0d.1.2")}
    assert len(proofs) == 4
    assert proof_of(b"one", "c1.1.0a0b0c0d.1.1") in proofs
