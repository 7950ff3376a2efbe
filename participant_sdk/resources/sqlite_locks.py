"""Which branch has changed which row and is not finished.

Strict two-phase locking on what was changed (Eswaran et al., CACM 1976): a changed row is its branch's until the outcome.
A name of a foreign key (`sqlite_schema`) is locked by one branch alone, or shared by any number.
Locks are taken and dropped inside a group whose transaction may still be lost, so each group can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from participant_sdk.resources.sqlite_schema import ALONE, SHARED

_MODE_BYTES = len(SHARED)


class RowLocks:
    """Row identity, or name of a foreign key → the transactions that hold it."""

    def __init__(self) -> None:
        self._holder: dict[bytes, str] = {}
        self._sharers: dict[bytes, set[str]] = {}
        """By the name without its mode."""
        self._rows: dict[str, list[bytes]] = {}
        self._journal: list[tuple[bool, str, list[bytes]]] = []

    def __len__(self) -> int:
        return len(self._holder) + len(self._sharers)

    def holder(self, rows: Iterable[bytes], transaction_id: str) -> str | None:
        """Another transaction that holds one of the rows, or `None`."""
        held = self._holder
        for row in rows:
            other = held.get(row)
            if other is not None and other != transaction_id:
                return other
            if not row[0] and (other := self._across(row, transaction_id)) is not None:
                return other
        return None

    def _across(self, name: bytes, transaction_id: str) -> str | None:
        """Another transaction that holds a name of a foreign key in the other mode."""
        plain = name[_MODE_BYTES:]
        if name.startswith(SHARED):
            other = self._holder.get(ALONE + plain, transaction_id)
            return other if other != transaction_id else None
        return next((other for other in self._sharers.get(plain, ()) if other != transaction_id), None)

    def take(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        """Lock rows that nobody else holds."""
        held = self._holder
        new: list[bytes] = []
        for row in rows:
            if row.startswith(SHARED):
                if transaction_id not in self._sharers.get(row[_MODE_BYTES:], ()):
                    self._put(transaction_id, row)
                    new.append(row)
                continue
            if row not in held:
                held[row] = transaction_id
                new.append(row)
            assert held[row] == transaction_id, "a row is locked by another branch"
        if new:
            self._rows.setdefault(transaction_id, []).extend(new)
            self._journal.append((True, transaction_id, new))

    def drop(self, transaction_id: str) -> None:
        """Drop all locks of a transaction."""
        rows = self._rows.pop(transaction_id, None)
        if rows is not None:
            for row in rows:
                self._take_away(transaction_id, row)
            self._journal.append((False, transaction_id, rows))

    def keep_group(self) -> None:
        """The group was committed."""
        self._journal.clear()

    def undo_group(self) -> None:
        """The group was lost: everything since the last `keep_group` did not happen."""
        while self._journal:
            taken, transaction_id, rows = self._journal.pop()
            if taken:
                self._remove(transaction_id, rows)
            else:
                self._add(transaction_id, rows)

    def _add(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        for row in rows:
            self._put(transaction_id, row)
        self._rows.setdefault(transaction_id, []).extend(rows)

    def _remove(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        for row in rows:
            self._take_away(transaction_id, row)
        held = self._rows[transaction_id]
        del held[len(held) - len(rows) :]
        if not held:
            del self._rows[transaction_id]

    def _put(self, transaction_id: str, row: bytes) -> None:
        if row.startswith(SHARED):
            self._sharers.setdefault(row[_MODE_BYTES:], set()).add(transaction_id)
        else:
            self._holder[row] = transaction_id

    def _take_away(self, transaction_id: str, row: bytes) -> None:
        if not row.startswith(SHARED):
            del self._holder[row]
            return
        sharers = self._sharers[row[_MODE_BYTES:]]
        sharers.remove(transaction_id)
        if not sharers:
            del self._sharers[row[_MODE_BYTES:]]
