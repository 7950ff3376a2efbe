"""The headers themselves: what gRPC would write, within limits."""

from __future__ import annotations

import pytest

from participant_sdk import Refuse
from participant_sdk.client import Client
from participant_sdk.frameworks.calls import HttpCall
from participant_sdk.frameworks.clients import carry
from participant_sdk.frameworks.headers import ACKNOWLEDGED_BYTES_MAX, CONTEXT_BYTES_MAX, of_request, of_response
from participant_sdk.metadata import ACKNOWLEDGED_KEY, CAUSE_KEY, CONTEXT_KEY, packed, said, unpacked
from troth.errors import ConfigError, Reason, RequestError
from troth.v1 import client_pb2, common_pb2


def test_bytes_are_written_as_grpc_writes_them() -> None:
    assert packed([b"\x00\xff", b""]) == "AP8=,"
    for value in ("AP8=,", "AP8,", b" AP8= , "):
        assert unpacked(value) == [b"\x00\xff", b""]
    for value in ("A", "&&", "AP8==="):
        with pytest.raises(ValueError, match=r"."):
            unpacked(value)


def test_what_is_no_base64_is_no_message_either() -> None:
    assert said({ACKNOWLEDGED_KEY: "%", CAUSE_KEY: "AA=="}) == [(ACKNOWLEDGED_KEY, b"\xff"), (CAUSE_KEY, b"\x00")]
    assert said({}) == []


def test_headers_have_limits() -> None:
    fits = CONTEXT_BYTES_MAX // 4 * 3
    assert len(of_request(((CONTEXT_KEY, b"x" * fits),))[CONTEXT_KEY]) == CONTEXT_BYTES_MAX
    with pytest.raises(RequestError) as caught:
        of_request(((CONTEXT_KEY, b"x" * (fits + 1)),))
    assert caught.value.reason is Reason.FRAME_TOO_LARGE
    fits = ACKNOWLEDGED_BYTES_MAX // 4 * 3
    assert len(of_response(((ACKNOWLEDGED_KEY, b"x" * fits),))[1]) == ACKNOWLEDGED_BYTES_MAX
    with pytest.raises(RequestError, match="call with gRPC"):
        of_response(((ACKNOWLEDGED_KEY, b"x" * fits), (ACKNOWLEDGED_KEY, b"x")))


def test_a_refusal_says_what_was_done_before_it() -> None:
    """Else the caller knows of no branch there, and whether the commit hears of it depends on how soon that announces itself."""
    context = common_pb2.TransactionContext(transaction_id="c1.1.0badcafe.1.1", call_id="k")
    http = HttpCall([packed([context.SerializeToString()])], "north", "POST", lambda name: None)
    with http.inside() as scope:
        scope.acknowledged("north", 2, incarnation=3)
    told = http.fails(Refuse("NO_FUNDS"))
    assert told is not None
    (data,) = [data for name, data in said(dict(told.headers)) if name == ACKNOWLEDGED_KEY]
    done = client_pb2.AcknowledgedOperations.FromString(data)
    assert (done.participant, done.count, done.incarnation) == ("north", 2, 3)


def test_what_is_no_http_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Client cannot carry"):
        carry(Client("127.0.0.1:1"), lambda: None)
