"""The engine on a log that can be taken over: what it says is said by the owner."""

from __future__ import annotations

import asyncio
import math

from engine_rig import Rig, Start
from scripted_core import Do, GateLog

from troth.errors import LogError, LogFailed, Reason

FENCED = LogFailed(Reason.LOG_FENCED, "somebody else has it")


class HeldLog(GateLog):
    """A log that is held for a time. Each `hold` takes the next of `answers`: until when, or why no longer."""

    def __init__(self, *answers: float | LogFailed) -> None:
        super().__init__()
        self.held_until = 0.0
        self.lost: asyncio.Future[LogError] | None = asyncio.get_running_loop().create_future()
        self._answers = list(answers)

    async def hold(self) -> None:
        answer = self._answers.pop(0)
        await asyncio.sleep(0)
        if isinstance(answer, LogFailed):
            raise answer
        self.held_until = answer


async def test_past_its_time_the_log_is_asked_for_before_anything_is_said(start: Start) -> None:
    log = HeldLog(0.0, 0.0, math.inf)
    rig = Rig(log=log)
    rig.engine.submit(Do(effects=("said",)))
    await start(rig)
    await rig.until_done("said")
    assert log.held_until == math.inf


async def test_who_does_not_have_the_log_any_more_says_nothing(start: Start) -> None:
    rig = Rig(log=HeldLog(FENCED))
    rig.engine.submit(Do(effects=("said",)))
    await start(rig)
    assert await rig.failed() is FENCED
    assert rig.done == []


async def test_an_idle_engine_ends_when_its_log_is_lost(start: Start) -> None:
    log = HeldLog(math.inf)
    rig = await start(Rig(log=log))
    assert log.lost is not None
    log.lost.set_result(FENCED)
    assert await rig.failed() is FENCED
