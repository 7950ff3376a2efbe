"""The headers themselves: what gRPC would write, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from participant_sdk import Refuse, background
from participant_sdk.client import Client
from participant_sdk.frameworks.calls import HttpCall, Refusal
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


CALL = common_pb2.TransactionContext(transaction_id="c1.1.0badcafe.1.1", call_id="k", last_call=True)


def answering(names: Iterable[str], vote: Callable[[str], Any], loop: asyncio.AbstractEventLoop | None = None) -> HttpCall:
    """A last call in which these have each done something, in that loop or the one that runs."""
    http = HttpCall([packed([CALL.SerializeToString()])], "north", "POST", lambda name: None)
    with http.inside() as scope:
        for name in names:
            scope.acknowledged(name, 1, incarnation=1)
            scope.votes_at_end(name, 1, vote, loop or asyncio.get_running_loop())
    return http


async def test_as_many_votes_are_told_as_there_is_room_for() -> None:
    async def votes(transaction_id: str) -> common_pb2.SealedVote:
        return common_pb2.SealedVote(vote=transaction_id.encode(), seal=bytes(32))

    told = {}
    for count in (10, 50, 75):
        headers = await answering((f"{number:04}" for number in range(count)), votes).answers(200)
        assert isinstance(headers, list)
        done = [client_pb2.AcknowledgedOperations.FromString(data) for _, data in said(dict(headers))]
        assert [one.participant for one in done] == [f"{number:04}" for number in range(count)]
        told[count] = sum(one.HasField("vote") for one in done)
        assert len(headers[0][1]) <= ACKNOWLEDGED_BYTES_MAX
    assert told[10] == 10 and 10 < told[50] < 50 and told[75] < told[50], told


async def test_each_votes_in_its_own_loop() -> None:
    """Whoever serves the call may have another one, or none."""
    thread, voted = background.take(), []

    async def votes(transaction_id: str) -> None:
        voted.append(asyncio.get_running_loop())

    try:
        http = answering(["north"], votes, thread.loop)
        await http.answers(200)
        await asyncio.to_thread(http.answers_in_thread, 200)
        assert voted == [thread.loop] * 2
    finally:
        background.give_back()


async def test_a_participant_that_has_ended_meanwhile_fails_the_call() -> None:
    """As in gRPC: of its work nothing counts, but the caller hears who may have a branch."""

    async def ended(transaction_id: str) -> None:
        raise RequestError(Reason.SHUTTING_DOWN, "it has ended")

    http = answering(["north"], ended)
    for told in (await http.answers(200), await asyncio.to_thread(http.answers_in_thread, 200)):
        assert isinstance(told, Refusal) and told.status == 503
        assert [name for name, _ in said(dict(told.headers))] == [ACKNOWLEDGED_KEY, CAUSE_KEY]
    assert not isinstance(await http.answers(404), Refusal), "a call that failed votes nothing"


def test_what_is_no_http_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Client cannot carry"):
        carry(Client("127.0.0.1:1"), lambda: None)
