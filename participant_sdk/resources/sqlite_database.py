"""What an operation gets as `db`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from time import monotonic
from typing import Any

import apsw

from participant_sdk.core.work import NO_KEYS, Keys
from participant_sdk.lock_keys import LockKey, keys_not_held, reads_only
from participant_sdk.resources.sqlite_guard import Denial, Guard, Rules
from troth.errors import LogFailed, Reason, RequestError

_PROGRESS_STEPS = 20_000
"""Instructions of SQLite's machine between two looks at the clock; some tenths of a millisecond."""

Parameters = Sequence[Any] | Mapping[str, Any]

FATAL = (
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.ProtocolError,
)
"""After one of these the file can no longer be trusted to take what it is given."""


def log_failed(error: apsw.Error, doing: str) -> LogFailed:
    """The error that stops the process."""
    return LogFailed(Reason.LOG_FAILED, f"{doing}: {type(error).__name__}: {error}")


@dataclass(slots=True)
class Use:
    """One use of the connection by the author's code, and what went wrong in it for good.

    The author's code may catch what `execute` raises. It is refused all the same.
    """

    rules: Rules
    known: set[str]
    """The texts that these rules are known to allow."""
    deadline: float
    denial: Denial | None = None
    lost: bool = False
    """The group's transaction was ended."""
    late: bool = False
    """The time was over."""
    fatal: LogFailed | None = None
    keys: Keys | None = None
    """The lock keys that an operation holds; `None` for local work."""
    wanted: Keys = NO_KEYS
    """What it asked for and does not hold: it must run again, with them."""

    @property
    def spoilt(self) -> bool:
        """Whether it must not succeed any more."""
        return self.lost or self.late or self.denial is not None or self.fatal is not None or self.wanted != NO_KEYS


class Database:
    """The database, for operations, `participant.read` and `participant.local`.

    Use parameters: a text that is new costs far more than one that ran before.

    Every statement is carried out whole, so nothing stays open when a function returns. Errors of SQLite are raised as
    `apsw` raises them (`apsw.ConstraintError` and so on). Transactions, savepoints, PRAGMA, ATTACH and changes of the
    schema are not for operations; nor are tables whose names begin with `troth_`.
    """

    def __init__(self, connection: apsw.Connection, guard: Guard) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._guard = guard
        self._use: Use | None = None
        self._thread = 0
        connection.set_progress_handler(self._is_late, _PROGRESS_STEPS)

    def execute(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run one or more statements and return all rows. `?` takes a sequence, `:name` a mapping."""
        use = self._checked()
        try:
            if sql in use.known:
                return self._cursor.execute(sql, parameters).fetchall()
            with self._guard.judging(use.rules, sql):
                return self._cursor.execute(sql, parameters).fetchall()
        except BaseException as error:
            # A statement that was left in the middle (a text that cannot be decoded) would hold up the group's COMMIT.
            self._cursor.close(True)
            self._cursor = self._connection.cursor()
            raise self._judged(use, error) from None

    def one(self, sql: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row, or `None` when there is none."""
        rows = self.execute(sql, parameters)
        return rows[0] if rows else None

    def lock(self, *keys: LockKey) -> None:
        """Lock what the operation finds out while it runs that it reads or changes, before it does; as `locks` of the operation.

            item, = db.one("SELECT item FROM orders WHERE id = ?", (order,))
            db.lock(f"stock/{item}")

        Keys that are held already cost nothing. For others the operation is broken off here, what it did is undone, and it runs
        again from its start when they are held: so look at what you have read again after it (the function does that by
        itself), ask early, and for all keys at once where you can. A transaction over several participants does not wait
        for a key that it finds so: it aborts with a CONFLICT, and its next attempt (`Client.run` makes it) waits for it.

        Raises `RequestError`, which ends the operation in any case.
        """
        use = self._checked()
        use.wanted = keys_not_held(use.keys, keys)
        if use.wanted != NO_KEYS:
            raise RequestError(Reason.CONFLICT, "a lock is not held yet: the operation runs again when it is")
        if use.rules is Rules.SHARED and not reads_only(keys):
            use.rules, use.known = Rules.WRITE, self._guard.known(Rules.WRITE)

    # ---- for the resource

    def begin_use(self, rules: Rules, seconds_max: float, keys: Keys | None = None) -> Use:
        """Let the author's code in, on this thread. `keys` are those that an operation holds."""
        self._thread = get_ident()
        self._use = use = Use(rules, self._guard.known(rules), monotonic() + seconds_max, keys=keys)
        return use

    def end_use(self) -> None:
        """The author's code is done; from here on the connection is the SDK's."""
        self._use = None

    # ---- inside

    def _checked(self) -> Use:
        use = self._use
        if use is None or self._thread != get_ident():
            raise RequestError(
                Reason.FORBIDDEN_SQL,
                "the database was used outside of the function that it was given to",
                hint="Use `db` only in that function, and on its thread.",
            )
        if monotonic() > use.deadline:
            use.late = True
        if use.spoilt:
            raise RequestError(Reason.FORBIDDEN_SQL, "the operation has failed already: let it end")
        return use

    def _judged(self, use: Use, error: BaseException) -> BaseException:
        """Note what is wrong for good, and return what the author's code sees."""
        if not isinstance(error, apsw.Error):
            return error
        if isinstance(error, FATAL):
            use.fatal = log_failed(error, "an operation's statement failed")
            return use.fatal
        use.denial = self._guard.take_denial() or use.denial
        use.late = use.late or isinstance(error, apsw.InterruptError)
        # An author's ON CONFLICT ROLLBACK, RAISE(ROLLBACK), and the interruption of a write end the whole transaction.
        use.lost = not self._connection.in_transaction
        if use.denial is not None:
            return RequestError(use.denial.reason, use.denial.what)
        return error

    def _is_late(self) -> bool:
        return self._use is not None and monotonic() > self._use.deadline
