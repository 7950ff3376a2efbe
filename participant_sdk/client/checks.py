"""What a request must be before it is sent: the coordinator's rules, checked here first, with the same reasons.

Checks that need the coordinator's limits take them from ClientWelcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

from troth import features
from troth.errors import Reason, RequestError
from troth.v1 import client_pb2, common_pb2

TIMEOUT_MS_MAX = 2**32 - 1
"""What the wire can carry: 49 days."""
WAITS = {"logged": common_pb2.WAIT_LOGGED, "complete": common_pb2.WAIT_COMPLETE}


@dataclass(frozen=True, slots=True)
class Limits:
    """The coordinator's limits as numbers to compare with; one that it has not told is infinite, and so not checked here."""

    frame_bytes_max: float = math.inf
    timeout_ms_max: float = math.inf
    key_bytes_max: float = math.inf
    participants_max: float = math.inf
    operations_max: float = math.inf
    payload_bytes_max: float = math.inf
    keeps_results: bool = False
    """Whether it keeps results under keys."""

    @classmethod
    def told(cls, welcome: client_pb2.ClientWelcome) -> Limits:
        """What a ClientWelcome says."""
        numbers = [one.name for one in fields(cls) if one.name != "keeps_results"]
        told = {name: getattr(welcome.limits, name) or math.inf for name in numbers}
        return cls(**told, keeps_results=features.KEY_RESULTS in welcome.capabilities)


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
        message = "the idempotency key cannot be written in UTF-8"
        raise RequestError(Reason.INVALID_KEY, message, hint="Leave lone surrogates out.") from None
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


def within_timeout_and_key(ms: int, key: str, limits: Limits) -> None:
    """Raise `RequestError` when the coordinator would refuse this timeout or key."""
    if ms > limits.timeout_ms_max:
        raise RequestError(Reason.INVALID_TIMEOUT, f"a timeout of {ms} ms is longer than timeout_ms_max = {limits.timeout_ms_max}",
            hint="Use a shorter timeout, or raise timeout_ms_max.")
    if key and len(key.encode()) > limits.key_bytes_max:
        raise RequestError(
            Reason.INVALID_KEY,
            f"the idempotency key has {len(key.encode())} bytes, more than key_bytes_max = {limits.key_bytes_max}",
            hint="Use a shorter key, such as a hash of it, or raise key_bytes_max.",
        )


def within_limits(branches: Sequence[client_pb2.BranchRequest], size: int, limits: Limits) -> None:
    """Raise `RequestError` when the coordinator would refuse this work, in a request of `size` bytes."""
    if len(branches) > limits.participants_max:
        raise _too_much("participants", len(branches), limits.participants_max, Reason.TOO_MANY_PARTICIPANTS, "the transaction")
    # Each operation and each byte of it makes the request longer: what is so small as a whole is not too large in a part.
    if size > limits.operations_max or size > limits.payload_bytes_max:
        for branch in branches:
            _within_branch(branch, limits)
    if size > limits.frame_bytes_max:
        raise _too_much("frame_bytes", size, limits.frame_bytes_max, Reason.FRAME_TOO_LARGE, "the request")


def kept_result(result: bytes, limits: Limits) -> None:
    """Raise `RequestError` when the coordinator would not keep this under a key."""
    if not limits.keeps_results:
        raise RequestError(
            Reason.VERSION_MISMATCH, "the coordinator keeps no results under keys: it is of an earlier version, or holds that back",
            hint="Upgrade it first, or leave `result` alone.",
        )  # fmt: skip
    if len(result) > limits.payload_bytes_max:
        raise _too_much("payload_bytes", len(result), limits.payload_bytes_max, Reason.PAYLOAD_TOO_LARGE, "the result")


def _within_branch(branch: client_pb2.BranchRequest, limits: Limits) -> None:
    count = len(branch.operations)
    if count > limits.operations_max:
        raise _too_much("operations", count, limits.operations_max, Reason.TOO_MANY_OPERATIONS, branch.participant)
    size = sum(len(operation.arguments) for operation in branch.operations)
    if size > limits.payload_bytes_max:
        raise _too_much("payload_bytes", size, limits.payload_bytes_max, Reason.PAYLOAD_TOO_LARGE, branch.participant)


def _too_much(what: str, value: int, limit: float, reason: Reason, where: str) -> RequestError:
    return RequestError(reason, f"{where}: {value} {what.replace('_', ' ')}, more than {what}_max = {limit}")
