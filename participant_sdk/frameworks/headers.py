"""What a transaction is in HTTP headers: gRPC's metadata, under the same names and, for `-bin`, in the same base64.

Request:   `troth-context-bin`, and the transaction's id in clear in `troth-transaction`, for proxies to route by.
Response:  `troth-acknowledged-bin`, always, with one value for each participant, joined by commas; `troth-cause-bin`, when the
           transaction is why the call failed.

Servers and proxies cut headers off, or refuse them, from 8 KiB on (nginx, gunicorn). So all that is said here stays below that:
what does not fit ends the call with an error that says so, since a part of it would commit a half. Early votes are left out
before that (`participant_sdk.early`): without one the commit asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from participant_sdk.metadata import ACKNOWLEDGED_BYTES_MAX, ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY, Metadata, packed, unpacked
from troth.errors import Reason, RequestError
from troth.v1 import common_pb2

CONTEXT_BYTES_MAX = 2048
"""Of the value of `troth-context-bin`: calls that go some six hundred services deep."""

STATUS_OF_CODE = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500, "DATA_LOSS": 500, "UNKNOWN": 500, "UNAVAILABLE": 503,
}  # fmt: skip
"""The status of a call that failed because of its transaction, by the gRPC code of the reason (as in google.rpc.Code)."""
FAILED_FROM = 400
"""A status from here on is that of a call that failed: nothing of it counts."""


def nobody_knows(status: int) -> bool:
    """Whether a proxy or a server may say this by itself when an answer is lost."""
    return status >= 500 or status in (408, 429, 499)


def of_request(metadata: Metadata) -> dict[str, str]:
    """The headers of a call. Raises `RequestError` (FRAME_TOO_LARGE)."""
    headers = {name: value if isinstance(value, str) else packed([value]) for name, value in metadata}
    _within(CONTEXT_KEY, headers[CONTEXT_KEY], CONTEXT_BYTES_MAX)
    return headers


def of_response(trailers: Metadata) -> tuple[str, str]:
    """The header that acknowledges. Raises `RequestError` (FRAME_TOO_LARGE)."""
    value = packed(data for _, data in trailers if isinstance(data, bytes))
    _within(ACKNOWLEDGED_KEY, value, ACKNOWLEDGED_BYTES_MAX)
    return ACKNOWLEDGED_KEY, value


def of_cause(cause: common_pb2.Cause) -> tuple[str, str]:
    """The header that says why."""
    return CAUSE_KEY, packed([cause.SerializeToString()])


def context_of(values: Iterable[str | bytes]) -> list[tuple[str, bytes]]:
    """A request's context headers as call metadata. Raises `RequestError` (INVALID_ARGUMENT)."""
    try:
        return [(CONTEXT_KEY, one) for value in values for one in unpacked(value)]
    except ValueError:
        raise RequestError(Reason.INVALID_ARGUMENT, f"{CONTEXT_KEY} is no base64") from None


def _within(name: str, value: str, limit: int) -> None:
    if len(value) > limit:
        message = f"the header {name} would have {len(value)} bytes, more than {limit}"
        raise RequestError(Reason.FRAME_TOO_LARGE, message, hint="Let fewer participants work in one call, or call with gRPC.")
