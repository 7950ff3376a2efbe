"""An event loop on a thread, for code that is not asynchronous: one in each process, shared by all that need it there.

It is begun by the first user and ends with the last one. A forked child has none of it: it begins one of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import thread as executors
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from troth import forks
from troth.errors import Reason, RequestError
from troth.logs import get_logger

_log = get_logger("participant_sdk.background")
T = TypeVar("T")

END_SECONDS = 20.0
"""How long a process that ends takes to close what it has; after that it ends all the same. A database may be silent for ever."""
LEAST_SECONDS = 1.0
"""Of that, for each of them, when others have taken it all."""
_ending = threading.local()
"""`by`: the time of `time.monotonic` by which the thread that closes everything goes on."""


def _seconds_left() -> float | None:
    """Of a process that ends; None where nobody presses."""
    by: float | None = getattr(_ending, "by", None)
    return None if by is None else max(LEAST_SECONDS, by - time.monotonic())


def _hurry() -> None:
    """Whoever presses Ctrl-C while a process ends does not want to wait."""
    if _seconds_left() is not None:
        _ending.by = 0.0


class Background:
    """A loop on a thread. Get it with `take`, and `give_back` what was taken."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._generation = forks.generation()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="troth", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            self._end = self.loop.create_future()
            self._ready.set()
            runner.run(self._until_ended())

    async def _until_ended(self) -> None:
        await self._end

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it in the loop, with the caller's context, and wait. Raises what it raises, `RequestError` in a forked child and when
        the loop has ended, `TimeoutError` when the process ends and has no time left."""
        if forks.generation() != self._generation or self.loop.is_closed():
            work.close()
            what = "it was closed" if forks.generation() == self._generation else "it belongs to the process that was forked"
            raise RequestError(Reason.INVALID_ARGUMENT, f"{what}, with all that was begun in it", hint="Begin anew.")
        running = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return running.result(_seconds_left())
        except BaseException:
            running.cancel()  # the caller was interrupted; otherwise it is done
            raise

    def end(self) -> None:
        """Stop the loop, and wait for the thread."""
        self.loop.call_soon_threadsafe(self._end.set_result, None)
        self._thread.join(_seconds_left())


lock = threading.RLock()
"""Whoever begins or ends something in the background does so alone."""
_running: Background | None = None
_users = 0


def take() -> Background:
    """The process's loop, begun if it is not there."""
    global _running, _users
    with lock:
        if _running is None:
            _running = Background()
        _users += 1
        return _running


def give_back() -> None:
    """It is not needed any more by one who took it."""
    global _running, _users
    with lock:
        _users -= 1
        if _users == 0 and _running is not None:
            _running.end()
            _running = None


class Startable(Protocol):
    """What has a life in a loop."""

    async def start(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End."""


_ends: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()
"""What is open in this process, in the order in which it was opened, and how it is closed."""


def at_end(one: Any, close: Callable[[Any], None]) -> None:
    """Have it closed with the process, before what was opened earlier, if it is still there then."""
    with lock:
        _ends.pop(one, None)
        _ends[one] = close


def start(one: Startable) -> None:
    """Start it here, once in this process; it is closed at the end of the process. Raises what its `start` raises."""
    with lock:
        if one in _ends:
            return
        thread = take()
        try:
            thread.do(one.start())
        except BaseException:
            give_back()
            raise
        at_end(one, close)


def close(one: Startable) -> None:
    """Close what was started here."""
    with lock:
        if _ends.pop(one, None) is not None and _running is not None:
            try:
                _running.do(one.close())
            except KeyboardInterrupt:  # wherever in there it came
                _hurry()
                raise
            finally:
                give_back()


def _close_all() -> None:
    _ending.by = time.monotonic() + END_SECONDS
    for one, end in reversed(list(_ends.items())):
        try:
            end(one)
        except (Exception, KeyboardInterrupt) as error:  # the process ends, whatever it is: what is durable is recovered next time
            if isinstance(error, KeyboardInterrupt):
                _hurry()
            _log.warning("not closed in order", of=type(one).__name__, error=repr(error))


def _close_with_main_thread() -> None:
    if not _others_work():
        _close_all()


def _others_work() -> bool:
    """Whether there are threads that the process waits for, and that have something to do."""
    return any(not one.daemon and one is not threading.main_thread() and _has_work(one) for one in threading.enumerate())


def _has_work(thread: threading.Thread) -> bool:
    """Not the thread of an executor (in which resources work, too) that waits for a job, and has none."""
    jobs = executors._threads_queues.get(thread)
    if jobs is None or not jobs.empty():
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is None or frame.f_code is not executors._worker.__code__


# When the main thread has ended, executors refuse work, and resources that work in threads can neither finish what is decided nor
# close. So it is done before that: this is called ahead of what was registered earlier, and executors are imported here.
# Where other threads go on, what they work with is closed after them, in the order that is still possible.
threading._register_atexit(_close_with_main_thread)  # type: ignore[attr-defined]  # there is no public name
atexit.register(_close_all)


def refuse_in_loop(what: str, instead: str) -> None:
    """Raise `RequestError` (INVALID_ARGUMENT) where waiting would stop an event loop."""
    if asyncio._get_running_loop() is not None:
        raise RequestError(Reason.INVALID_ARGUMENT, f"{what} in an event loop would stop it", hint=f"Use {instead}.")


def _in_child() -> None:
    global lock, _running, _users
    lock, _running, _users = threading.RLock(), None, 0
    _ends.clear()


os.register_at_fork(after_in_child=_in_child)
