"""A transaction that is carried over HTTP by hand, as whoever has no client of ours does it."""

from __future__ import annotations

import httpx

from participant_sdk.metadata import CONTEXT_KEY, packed, said
from troth.v1 import client_pb2, common_pb2


def carrying(context: common_pb2.TransactionContext) -> dict[str, str]:
    """The headers of a call."""
    return {CONTEXT_KEY: packed([context.SerializeToString()])}


def told(answer: httpx.Response) -> client_pb2.AcknowledgedOperations:
    """What an answer says of the one participant that worked in its call."""
    ((_, data),) = said(answer.headers)
    return client_pb2.AcknowledgedOperations.FromString(data)
