"""Whom a simulated participant follows, and who it is itself."""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar

from participant_sdk.core.coordinators import Coordinators
from participant_sdk.core.starts import Starts
from troth.errors import RemoteProtocolError
from troth.v1 import participant_pb2, record_pb2

Known = TypeVar("Known", Coordinators, Starts)


class Identified(Protocol):
    """Who has an identity log."""

    incarnation: int
    starts: Starts
    coordinators: Coordinators


def copied(known: Known) -> Known:
    """A copy that has dicts and lists of its own; messages in them are only ever replaced. A run makes thousands: a deep copy of
    each was a fifth of its time."""
    own = copy.copy(known)
    for name, value in vars(known).items():
        setattr(own, name, copy.copy(value))
    return own


def identity_of(one: Identified) -> tuple[int, Starts, Coordinators]:
    """What stands in its identity log now."""
    return one.incarnation, copied(one.starts), copied(one.coordinators)


def has_identity(one: Identified, kept: tuple[int, Starts, Coordinators]) -> bool:
    """Whether the same stands there as it did."""
    incarnation, starts, coordinators = kept
    return (
        one.incarnation == incarnation and vars(one.starts) == vars(starts) and vars(one.coordinators) == vars(coordinators)
    )


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
