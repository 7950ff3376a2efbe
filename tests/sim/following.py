"""Whom a simulated participant follows."""

from __future__ import annotations

from participant_sdk.core.coordinators import Coordinators
from troth.errors import RemoteProtocolError
from troth.v1 import participant_pb2, record_pb2


def may_follow(
    coordinators: Coordinators, welcome: participant_pb2.Welcome, own_position: int, position: int
) -> record_pb2.EpochSeen | None:
    """What is to be remembered of a coordinator that may be followed; `None` for any other. As in `Runtime.accept`."""
    said = record_pb2.EpochSeen(
        coordinator=welcome.coordinator, epoch=welcome.epoch, log_id=welcome.log_id, nonce=welcome.nonce, position=position
    )
    try:
        coordinators.check(said)
    except RemoteProtocolError:
        return None
    return None if welcome.heard > own_position else said
