"""Whom an owner of locks holds up: what people are told of it. The lock table counts, and nothing is granted or refused by it."""

from __future__ import annotations

from typing import NamedTuple

LOOKED_AT_MAX = 1000
"""Places in line, and keys, that are looked at to tell whom one owner holds up; and owners of whom is kept who was turned away."""
KEYS_TOLD_MAX = 3


class HeldUp(NamedTuple):
    """Whom an owner holds up."""

    waiting: int
    """Requests in line that wait for what it holds."""
    turned_away: int
    """How often a request died of it since it is stuck."""
    keys: tuple[str, ...]
    """Some of the keys that they came for."""


class TurnedAway:
    """Who was turned away because of one owner."""

    __slots__ = ("keys", "times")

    def __init__(self) -> None:
        self.times = 0
        self.keys: dict[str, None] = {}
        """Some of the keys that they came for."""
