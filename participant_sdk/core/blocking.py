"""Whom a branch in doubt holds up, told with its questions to people at the coordinator (rule 8). Nothing hangs on it.

Lock keys name things (`account/alice`), and are made of arguments: so whom they are about is told as a hash, by which somebody who
knows a key recognises it.
"""

from __future__ import annotations

import hashlib

from participant_sdk.core.locks import LockTable
from participant_sdk.core.work import WHOLE_RESOURCE
from troth.v1 import common_pb2

HASH_DIGITS = 16
KIND_CHARACTERS_MAX = 40
"""Of what is before the first slash of a key."""


def blocks(locks: LockTable, transaction_id: str) -> common_pb2.Blocks:
    """Whom the branch of a transaction holds up by its lock keys."""
    held, held_up = locks.held(transaction_id), locks.held_up(transaction_id)
    return common_pb2.Blocks(
        lock_keys=len(held.exclusive) + len(held.shared),
        keys=[shortened(key) for key in held_up.keys],
        waiting=held_up.waiting,
        turned_away=held_up.turned_away,
    )


def shortened(key: str) -> str:
    """A lock key as people elsewhere read it; see `troth.v1.Blocks`."""
    if key == WHOLE_RESOURCE:
        return key
    kind, slash, _ = key.partition("/")
    digits = hashlib.sha256(key.encode()).hexdigest()[:HASH_DIGITS]
    return f"{kind[:KIND_CHARACTERS_MAX]}/#{digits}" if slash else f"#{digits}"
