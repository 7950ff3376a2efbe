"""A participant as a whole program: it starts, serves until it is told to end, and closes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from troth.errors import ConfigError, LogError, TrothError
from troth.logs import get_logger

if TYPE_CHECKING:
    from participant_sdk.participant import Participant

OK, SENT_AWAY, CONFIG, LOG = 0, 1, 2, 3
"""Exit statuses, the numbers of `troth serve`."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = get_logger("participant_sdk")

Prepare = Callable[[], Awaitable[object]]


async def run(participant: Participant, prepare: Prepare | None) -> int:
    """See `Participant.run`."""
    stop = _signalled()
    try:
        async with participant:
            await _until(stop, participant, prepare)
    except TrothError as error:
        reason, name = error.reason.name, participant.name
        _log.critical("the service ends", participant=name, reason=reason, error=error.message, hint=error.hint)
        if isinstance(error, LogError):
            return LOG
        return CONFIG if isinstance(error, ConfigError) else SENT_AWAY
    return OK


async def _until(stop: asyncio.Event, participant: Participant, prepare: Prepare | None) -> None:
    """Prepare and serve, until a signal comes or either fails."""
    stopping: asyncio.Future[object] = asyncio.ensure_future(stop.wait())
    serving: asyncio.Future[object] = asyncio.ensure_future(participant.serve())
    doing = {stopping, serving}
    try:
        if prepare is not None:
            preparing: asyncio.Future[object] = asyncio.ensure_future(prepare())
            doing.add(preparing)
            await asyncio.wait(doing, return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                preparing.result()
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        for task in doing:
            task.cancel()
        await asyncio.gather(*doing, return_exceptions=True)


def _signalled() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. A second one does what it does without us: it ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        stop.set()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, signalled)
    return stop
