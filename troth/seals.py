"""Seals: how a participant's vote reaches the coordinator by way of a client, who might say anything.

A coordinator draws a secret for each of its lives and gives each participant a key made of it, with its Welcome. The participant
seals what it votes with that key (HMAC-SHA-256, RFC 2104); the client passes it on; the coordinator makes the same key again and
looks whether the seal fits. So nothing is kept for it, and nobody else can vote.

A proof says that whoever calls a service speaks for the client that began the transaction: ids are no secrets. It is made of what
only that client and the coordinator know.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from google.protobuf.message import DecodeError

from troth.v1 import common_pb2, participant_pb2

SECRET_BYTES = 32
"""Of a coordinator's secret: as many as a seal has, since more add nothing."""


def seal_key(secret: bytes, participant: str, log_id: str) -> bytes:
    """The key of one participant, who is its log. Empty where there is no secret: no early vote is taken then."""
    return hmac.digest(secret, f"{participant}\n{log_id}".encode(), "sha256") if secret else b""


def sealed(key: bytes, vote: participant_pb2.EarlyVote) -> common_pb2.SealedVote:
    """The vote, sealed."""
    body = vote.SerializeToString()
    return common_pb2.SealedVote(vote=body, seal=hmac.digest(key, body, sha256))


def opened(key: bytes, told: common_pb2.SealedVote) -> participant_pb2.EarlyVote | None:
    """The vote, if its seal fits; `None` for anything else."""
    if not key or not hmac.compare_digest(hmac.digest(key, told.vote, sha256), told.seal):
        return None
    try:
        return participant_pb2.EarlyVote.FromString(told.vote)
    except DecodeError:
        return None


def proof_of(token: bytes, transaction_id: str) -> bytes:
    """What shows that a call is made for the client that began the transaction, whose session has this token."""
    return hmac.digest(token, f"troth caller\n{transaction_id}".encode(), "sha256")
