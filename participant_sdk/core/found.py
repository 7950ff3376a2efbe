"""Lock keys that operations have found while they ran, kept for their next attempt: that asks for them with the declared ones.

An attempt is recognised by the time of the first one, which retries keep, and by its operations. To forget one costs that
it finds them again; to take one for another, a lock more.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from participant_sdk.core.work import NO_KEYS, Keys
from troth.v1 import common_pb2

_Attempt = tuple[int, bytes]


class Found:
    """Found keys by attempt; the oldest go first."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._keys: dict[_Attempt, Keys] = {}
        self.any = False
        """Whether anything was ever found: then, and only then, an attempt is worth a look."""

    def __len__(self) -> int:
        return len(self._keys)

    def remember(self, first_attempt_ms: int, operations: Sequence[common_pb2.Operation], keys: Keys) -> None:
        """Keep all keys that were found."""
        self.any = True
        attempt = _attempt(first_attempt_ms, operations)
        self._bytes += _size(keys) - _size(self._keys.pop(attempt, NO_KEYS))
        self._keys[attempt] = keys
        while len(self._keys) > self._entries_max or self._bytes > self._bytes_max:
            self._bytes -= _size(self._keys.pop(next(iter(self._keys))))

    def recall(self, first_attempt_ms: int, operations: Sequence[common_pb2.Operation]) -> Keys:
        """What earlier attempts have found."""
        return self._keys.get(_attempt(first_attempt_ms, operations), NO_KEYS)


def _attempt(first_attempt_ms: int, operations: Sequence[common_pb2.Operation]) -> _Attempt:
    digest = blake2b(digest_size=16)
    for operation in operations:
        digest.update(b"%d,%d," % (len(operation.name.encode()), len(operation.arguments)))
        digest.update(operation.name.encode() + operation.arguments)
    return first_attempt_ms, digest.digest()


def _size(keys: Keys) -> int:
    return sum(len(key.encode()) for key in (*keys.exclusive, *keys.shared))
