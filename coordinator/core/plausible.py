"""Numbers that nobody can have reached.

Incarnations and epochs grow by one with each start, and each side follows the highest one that it has seen. So one false number
from anybody who is believed once would lock the real one out for ever: an incarnation of 2**64 - 1 its participant, and an
epoch of 2**62 that is reported as heard the coordinator itself, which begins above what it is told that it has lost. A jump is
therefore bounded: by more starts than a process can make in a week of doing nothing else, and fewer than would matter.
"""

from __future__ import annotations

from coordinator.core.book import Book, cause_of
from coordinator.core.model import Participant
from troth.errors import Reason
from troth.lives import JUMP_MAX
from troth.v1 import common_pb2, participant_pb2


def implausible(book: Book, known: Participant | None, said: participant_pb2.Hello) -> common_pb2.Cause | None:
    """Why what a Hello says cannot be true."""
    before = known.incarnation if known is not None else 0
    if said.incarnation - before > JUMP_MAX:
        message = f"incarnation {said.incarnation} of {said.participant!r} cannot be: {before} was the highest that was seen"
        return cause_of(Reason.IMPLAUSIBLE, message)
    for heard in said.heard:
        if heard.coordinator == book.coordinator and heard.epoch - book.epoch > JUMP_MAX:
            message = f"{said.participant!r} cannot have heard epoch {heard.epoch}: {book.coordinator!r} is in epoch {book.epoch}"
            return cause_of(Reason.IMPLAUSIBLE, message)
    return None
