"""The body of a request under an idempotency key, as a hash: the same key with another body is refused.

The hash is over a canonical form, so that it does not depend on what carries no meaning: the order of the entries of a map
(protobuf in Go gives another one each time), and the order of the participants. `protos/README.md` has the form byte for byte,
with an example.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from google.protobuf.message import DecodeError

from troth.v1 import client_pb2, common_pb2

HASH_VERSION = 1
"""Of `body_hash`. Records of the first releases have 0: `first_body_hash`."""

INTERACTIVE_HASH = sha256(b"interactive").digest()
"""The body of every interactive transaction, in all versions: its work is not known beforehand."""


def body_hash(branches: Iterable[client_pb2.BranchRequest]) -> bytes:
    """The hash of one-shot work, in version `HASH_VERSION`."""
    ordered = sorted(branches, key=lambda work: work.participant.encode())
    return _hash((work, [canonical_arguments(operation.arguments) for operation in work.operations]) for work in ordered)


def first_body_hash(branches: Iterable[client_pb2.BranchRequest]) -> bytes:
    """The hash of version 0: over the work as it came."""
    return _hash((work, [operation.arguments for operation in work.operations]) for work in branches)


def canonical_arguments(data: bytes) -> bytes:
    """Arguments with the entries of each map in the order of their keys' bytes; as they are, if they are no Arguments message.

    Fields that this version does not know stay: two bodies that differ in them are two.
    """
    try:
        return common_pb2.Arguments.FromString(data).SerializeToString(deterministic=True)
    except DecodeError:
        return data


def _hash(works: Iterable[tuple[client_pb2.BranchRequest, list[bytes]]]) -> bytes:
    digest = sha256()
    for work, arguments in works:
        parts = [work.participant.encode(), len(arguments).to_bytes(8, "big")]
        for operation, data in zip(work.operations, arguments, strict=True):
            parts += (operation.name.encode(), data)
        # Lengths go in too: without them two different bodies could be hashed as one text.
        for part in parts:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.digest()
