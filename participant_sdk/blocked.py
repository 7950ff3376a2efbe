"""Who waits in a database for branches in doubt: the database is asked when these ask their coordinator, and what it said is told
with the next question. No question waits for it, and no vote or decision uses what it uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from participant_sdk.border import Raised, called, finished
from participant_sdk.drivers import Jobs
from participant_sdk.resources.contract import HeldUp
from troth.v1 import common_pb2, participant_pb2

AGAIN_SECONDS = 5.0
"""The database is asked again after so long at the earliest, whatever is in doubt."""
TABLES_TOLD_MAX = 3
TABLE_CHARACTERS_MAX = 80


class Blocked:
    """What was found when the resource was asked last, if it is one that tells (`Resource`)."""

    def __init__(self, resource: Any, jobs: Jobs, names: Mapping[str, str]) -> None:
        self._ask = getattr(resource, "blocked", None)
        self._jobs = jobs
        self._names = names
        """The resource's names of prepared branches, by transaction."""
        self._found: Mapping[str, common_pb2.DatabaseBlocks] = {}
        self._asked_at = -AGAIN_SECONDS
        self._again_at = 0.0

    def tell(self, inquiry: participant_pb2.Inquiry) -> None:
        """Put what is known of its branch into a question, and look again if it is time."""
        if self._ask is None or not inquiry.HasField("blocks"):
            return
        now = asyncio.get_running_loop().time()
        found = self._found.get(self._names.get(inquiry.transaction_id, ""))
        if found is not None:
            inquiry.blocks.database.CopyFrom(found)
            inquiry.blocks.database.asked_ago_ms = int((now - self._asked_at) * 1000)
        if now >= self._again_at:
            self._again_at = now + AGAIN_SECONDS
            self._jobs.start(self._look(now))

    async def _look(self, now: float) -> None:
        """Ask. Who does not answer tells nothing, and is asked again."""
        assert self._ask is not None
        answer = await finished(self._ask)
        found = called(_told, answer) if isinstance(answer, Mapping) else {}
        self._found, self._asked_at = ({} if isinstance(found, Raised) else found), now


def _told(answer: Mapping[str, HeldUp]) -> Mapping[str, common_pb2.DatabaseBlocks]:
    return {name: _message(one) for name, one in answer.items()}


def _message(one: HeldUp) -> common_pb2.DatabaseBlocks:
    tables = [name[:TABLE_CHARACTERS_MAX] for name in one.tables[:TABLES_TOLD_MAX]]
    return common_pb2.DatabaseBlocks(sessions=one.sessions, waited_ms=int(one.seconds * 1000), tables=tables)
