"""What a resource tells of who waits for its prepared branches goes with the next question, whatever it answers, in bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from participant_sdk import blocked
from participant_sdk.blocked import TABLE_CHARACTERS_MAX, TABLES_TOLD_MAX, Blocked
from participant_sdk.drivers import Jobs
from participant_sdk.resources.contract import HeldUp, Unreachable
from troth.v1 import common_pb2
from troth.v1 import participant_pb2 as pb

NAMES = {"t1": "gid1", "t2": "gid2"}


class Telling:
    """A resource, as far as this goes: what it answers next."""

    def __init__(self) -> None:
        self.answers: list[Callable[[], Any]] = []
        self.asked = 0

    async def blocked(self) -> Any:
        self.asked += 1
        return self.answers.pop(0)()


async def asked(told: Blocked, transaction: str = "t1") -> pb.Inquiry:
    """A question, as it is sent; then whatever the resource was asked has been answered."""
    inquiry = pb.Inquiry(transaction_id=transaction, state=pb.BRANCH_STATE_PREPARED, blocks=common_pb2.Blocks())
    told.tell(inquiry)
    for _ in range(5):
        await asyncio.sleep(0)
    return inquiry


async def test_it_is_told_with_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    resource, jobs = Telling(), Jobs()
    told = Blocked(resource, jobs, NAMES)
    resource.answers.append(lambda: {"gid1": HeldUp(2, 1.5, ["x" * 500] * 20)})
    assert not (await asked(told)).blocks.HasField("database"), "no question waits for it"
    found = (await asked(told)).blocks.database
    assert (found.sessions, found.waited_ms) == (2, 1_500) and resource.asked == 1, "it is not asked each time"
    assert len(found.tables) == TABLES_TOLD_MAX and len(found.tables[0]) == TABLE_CHARACTERS_MAX
    for transaction in ("t2", "stranger"):
        assert not (await asked(told, transaction)).blocks.HasField("database"), "of that it has told nothing"
    monkeypatch.setattr(told, "_again_at", 0.0)
    resource.answers.append(lambda: {"gid2": HeldUp(0)})
    await asked(told)
    assert not (await asked(told)).blocks.HasField("database")
    assert (await asked(told, "t2")).blocks.HasField("database")
    await jobs.close()


def _raises() -> Any:
    raise OSError("it is broken")


@pytest.mark.parametrize(
    "answer", [lambda: Unreachable("away"), _raises, lambda: None, lambda: {"gid1": None}, lambda: {"gid1": HeldUp(-1)}]
)
async def test_whatever_is_no_answer_tells_nothing(answer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "AGAIN_SECONDS", 0.0)
    resource, jobs = Telling(), Jobs()
    told = Blocked(resource, jobs, NAMES)
    good = lambda: {"gid1": HeldUp(2)}  # noqa: E731 - one of several answers
    resource.answers += [good, answer, good, good]
    await asked(told)
    assert (await asked(told)).blocks.database.sessions == 2
    assert not (await asked(told)).blocks.HasField("database"), "what it said before is not true for ever"
    assert (await asked(told)).blocks.database.sessions == 2, "and it is asked again"
    await jobs.close()


async def test_who_does_not_tell_is_not_asked() -> None:
    jobs = Jobs()
    assert not (await asked(Blocked(object(), jobs, NAMES))).blocks.HasField("database")
    resource = Telling()
    unprepared = pb.Inquiry(transaction_id="t1", state=pb.BRANCH_STATE_ACTIVE)
    Blocked(resource, jobs, NAMES).tell(unprepared)
    assert not resource.asked and not unprepared.HasField("blocks")
    await jobs.close()
