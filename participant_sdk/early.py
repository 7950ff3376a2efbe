"""Votes at the end of a call of which its caller said that it is the last one to this service (decision 59), over gRPC and HTTP
alike: whoever serves the call asks for them when its handler has ended well, and before it tells what was done.

A vote is asked for in the loop of its participant, which need not be that of the server; many servers have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from participant_sdk.metadata import ACKNOWLEDGED_BYTES_MAX, packed_length
from troth.v1 import client_pb2, common_pb2

Vote = Callable[[str], Coroutine[Any, Any, common_pb2.SealedVote | None]]
"""Prepares the branch of a transaction, given by its id, and votes; `None` when the commit has to ask."""
Told = tuple[tuple[str, int], common_pb2.SealedVote | None]
"""A participant and its incarnation, and how it has voted."""


class EarlyVotes:
    """How those vote who work in one call: each once, by its incarnation."""

    __slots__ = ("_votes",)

    def __init__(self) -> None:
        self._votes: dict[tuple[str, int], tuple[Vote, asyncio.AbstractEventLoop]] = {}

    def add(self, participant: str, incarnation: int, vote: Vote, loop: asyncio.AbstractEventLoop) -> None:
        """A participant works in the call, and lives in this loop."""
        self._votes[participant, incarnation] = vote, loop

    async def ask(self, transaction_id: str) -> list[Told]:
        """Have all of them vote, from a loop. Raises what a participant raises that has ended."""
        return [(who, await _asked(vote(transaction_id), loop)) for who, (vote, loop) in list(self._votes.items())]

    def ask_in_thread(self, transaction_id: str) -> list[Told]:
        """The same from a thread without a loop, which waits."""
        votes = list(self._votes.items())
        return [(who, asyncio.run_coroutine_threadsafe(vote(transaction_id), loop).result()) for who, (vote, loop) in votes]


async def _asked(
    vote: Coroutine[Any, Any, common_pb2.SealedVote | None], loop: asyncio.AbstractEventLoop
) -> common_pb2.SealedVote | None:
    if loop is asyncio.get_running_loop():
        return await vote
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(vote, loop))


def fitting(told: Iterable[client_pb2.AcknowledgedOperations]) -> list[client_pb2.AcknowledgedOperations]:
    """What was done, with as many of its votes as an answer has room for beside it. A vote that is left out changes nothing but
    the price: that participant is asked at the commit."""
    kept = list(told)
    length = sum(packed_length(one.ByteSize()) for one in kept)
    for one in reversed(kept):
        if length <= ACKNOWLEDGED_BYTES_MAX:
            break
        length -= packed_length(one.ByteSize())
        one.ClearField("vote")
        length += packed_length(one.ByteSize())
    return kept
