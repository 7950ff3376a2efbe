"""Which branch has changed which row and is not finished.

Strict two-phase locking on what was changed (Eswaran et al., CACM 1976): a changed row is its branch's until the outcome.
Locks are taken and dropped inside a group whose transaction may still be lost, so each group can be taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class RowLocks:
    """Row identity → the transaction that changed it."""

    def __init__(self) -> None:
        self._holder: dict[bytes, str] = {}
        self._rows: dict[str, list[bytes]] = {}
        self._journal: list[tuple[bool, str, list[bytes]]] = []

    def __len__(self) -> int:
        return len(self._holder)

    def holder(self, rows: Iterable[bytes], transaction_id: str) -> str | None:
        """Another transaction that holds one of the rows, or `None`."""
        held = self._holder
        for row in rows:
            other = held.get(row)
            if other is not None and other != transaction_id:
                return other
        return None

    def take(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        """Lock rows that nobody else holds."""
        held = self._holder
        new: list[bytes] = []
        for row in rows:
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
                del self._holder[row]
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
        self._holder.update(dict.fromkeys(rows, transaction_id))
        self._rows.setdefault(transaction_id, []).extend(rows)

    def _remove(self, transaction_id: str, rows: Sequence[bytes]) -> None:
        for row in rows:
            del self._holder[row]
        held = self._rows[transaction_id]
        del held[len(held) - len(rows) :]
        if not held:
            del self._rows[transaction_id]
