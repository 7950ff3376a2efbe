"""Functions of the author that run aside, in threads of their own, so that one that never returns holds up nobody.

Pools wait for their threads when the process ends; these do not, and nobody else needs them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from time import monotonic
from typing import TYPE_CHECKING, Any

from participant_sdk.border import Raised, called, deliverable
from troth.errors import Reason, RequestError

if TYPE_CHECKING:
    from participant_sdk.resources.sqlite_database import Database, Parameters


class Threads(Executor):
    """A new thread for each piece of work; the end of the process does not wait for it."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """See `Executor`."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it, as nobody can stop the thread

        def work() -> None:
            result = called(lambda: function(*arguments, **options))
            if type(result) is Raised:
                future.set_exception(deliverable(result.error))
            else:
                future.set_result(result)

        threading.Thread(target=work, name="troth-aside", daemon=True).start()
        return future


class Desk:
    """Has a function in a thread look at a `Database` that belongs to another one, which serves it for a bounded time.

    To the function it is the `db`: `execute` and `one` do what those of `Database` do. All of it sees one state, since that thread
    does nothing else meanwhile; and when the time is over, that thread goes on, whatever the function is at.
    """

    def __init__(self, function: Callable[[Any], Any], seconds_max: float) -> None:
        self._function, self._seconds_max = function, seconds_max
        self._asked: queue.SimpleQueue[tuple[str, Parameters, Future[list[tuple[Any, ...]]]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self.result: Future[Any] = Future()
        """What the function returned or raised; not done as long as it runs."""

    # ---- what the function uses

    def execute(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run a statement that reads, and return all rows."""
        answer: Future[list[tuple[Any, ...]]] = Future()
        with self._lock:
            if not self._open:
                raise self._too_late()
            self._asked.put((sql, parameters, answer))
        return answer.result()

    def one(self, sql: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row, or `None` when there is none."""
        rows = self.execute(sql, parameters)
        return rows[0] if rows else None

    # ---- what the thread of the database runs

    def serve(self, db: Database) -> None:
        """Let the function begin, and answer it until it has ended, or its time is over. Raises nothing of the function's."""
        deadline = monotonic() + self._seconds_max
        self.result = Threads().submit(self._function, self)
        self.result.add_done_callback(lambda _: self._asked.put(None))
        try:
            while (asked := self._next(deadline)) is not None:
                sql, parameters, answer = asked
                rows = called(db.execute, sql, parameters)
                if type(rows) is Raised:
                    answer.set_exception(rows.error)
                else:
                    answer.set_result(rows)
        finally:
            self._close()

    def _next(self, deadline: float) -> tuple[str, Parameters, Future[list[tuple[Any, ...]]]] | None:
        try:
            return self._asked.get(timeout=max(0.0, deadline - monotonic()))
        except queue.Empty:
            return None

    def _close(self) -> None:
        with self._lock:
            self._open = False
        while not self._asked.empty():
            if (asked := self._asked.get()) is not None:
                asked[2].set_exception(self._too_late())

    def _too_late(self) -> RequestError:
        return RequestError(Reason.TIMEOUT, f"the time of the check is over ({self._seconds_max:g} seconds)")
