"""What a request must be before it is sent: the coordinator's rules, checked here first, with the same reasons.

Checks that need the coordinator's limits take them from ClientWelcome; a limit of 0 is not known, and not checked here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from troth.errors import Reason, RequestError
from troth.v1 import common_pb2

TIMEOUT_MS_MAX = 2**32 - 1
"""What the wire can carry: 49 days."""
WAITS = {"logged": common_pb2.WAIT_LOGGED, "complete": common_pb2.WAIT_COMPLETE}


def timeout_ms(timeout: float) -> int:
    """Seconds as whole milliseconds, rounded up. Raises `RequestError` (INVALID_TIMEOUT)."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise RequestError(Reason.INVALID_TIMEOUT, f"a timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 < timeout <= TIMEOUT_MS_MAX / 1000:  # refuses NaN too
        raise RequestError(Reason.INVALID_TIMEOUT, f"{timeout!r} seconds is no timeout")
    return math.ceil(timeout * 1000)


def key_text(key: str | None) -> str:
    """The key as the wire has it. Raises `RequestError` (INVALID_KEY) for an empty key and for what is no text."""
    if key is None:
        return ""
    if not isinstance(key, str) or not key:
        raise RequestError(Reason.INVALID_KEY, f"{key!r} is no idempotency key: use a text that is not empty, or None")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise RequestError(Reason.INVALID_KEY, "the idempotency key cannot be written in UTF-8") from None
    return key


def wait_mode(wait: str) -> common_pb2.Wait.ValueType:
    """The wire form of `wait`. Raises `RequestError` (INVALID_ARGUMENT)."""
    mode = WAITS.get(wait)
    if mode is None:
        raise RequestError(Reason.INVALID_ARGUMENT, f"wait={wait!r}: use 'logged' or 'complete'")
    return mode


def first_attempt(first_attempt_ms: int | None) -> int:
    """The time of the first attempt: the caller's, or now. Raises `RequestError` (INVALID_ARGUMENT)."""
    if first_attempt_ms is None:
        return time.time_ns() // 1_000_000
    if isinstance(first_attempt_ms, bool) or not isinstance(first_attempt_ms, int) or not 0 < first_attempt_ms < 2**63:
        raise RequestError(Reason.INVALID_ARGUMENT, f"first_attempt_ms={first_attempt_ms!r}: use milliseconds since the Unix epoch")
    return first_attempt_ms


def positive(name: str, value: int) -> int:
    """A whole number of at least 1. Raises `RequestError` (INVALID_ARGUMENT), naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(Reason.INVALID_ARGUMENT, f"{name}={value!r}: use a whole number, 1 or more")
    return value


def within_timeout_and_key(ms: int, key: str, limits: common_pb2.Limits) -> None:
    """Raise `RequestError` when the coordinator would refuse this timeout or key."""
    if limits.timeout_ms_max and ms > limits.timeout_ms_max:
        raise RequestError(Reason.INVALID_TIMEOUT, f"a timeout of {ms} ms is longer than timeout_ms_max = {limits.timeout_ms_max}")
    if key and limits.key_bytes_max and len(key.encode()) > limits.key_bytes_max:
        raise RequestError(
            Reason.INVALID_KEY,
            f"the idempotency key has {len(key.encode())} bytes, more than key_bytes_max = {limits.key_bytes_max}",
        )


def within_branches(work: Mapping[str, Sequence[common_pb2.Operation]], limits: common_pb2.Limits) -> None:
    """Raise `RequestError` when the coordinator would refuse this work, given for each participant."""
    _within("participants", len(work), limits.participants_max, Reason.TOO_MANY_PARTICIPANTS, "the transaction")
    for participant, operations in work.items():
        _within("operations", len(operations), limits.operations_max, Reason.TOO_MANY_OPERATIONS, participant)
        size = sum(len(operation.arguments) for operation in operations)
        _within("payload_bytes", size, limits.payload_bytes_max, Reason.PAYLOAD_TOO_LARGE, participant)


def within_frame(size: int, limits: common_pb2.Limits) -> None:
    """Raise `RequestError` when a request alone is larger than a frame may be."""
    _within("frame_bytes", size, limits.frame_bytes_max, Reason.FRAME_TOO_LARGE, "the request")


def _within(what: str, value: int, limit: int, reason: Reason, where: str) -> None:
    if limit and value > limit:
        raise RequestError(reason, f"{where}: {value} {what.replace('_', ' ')}, more than {what}_max = {limit}")
