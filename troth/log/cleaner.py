"""Bounded size: drop the head of the log, and first write again what must stay (log-structured cleaning,
Rosenblum & Ousterhout, SOSP 1991).

Cleaning goes on while the log is longer than twice the number of live owners plus a slack. A few records are cleaned with each
batch: there is no long pause. Each new record pays for one copy at most, so a log of many live records is not copied around and
around; it is then about twice what is live. A log of finished transactions is never copied at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from troth.ready import Append, Core

SLACK_RECORDS = 8192
"""Records that a log may hold beyond twice what is live before cleaning begins."""
STEP_RECORDS = 64
"""Records cleaned with one batch, at least; a batch of n records cleans up to twice n."""


class Cleaner:
    """Plans what one batch copies and drops. Knows, for each record, its owner; asks the core what is live."""

    def __init__(self, core: Core, *, slack_records: int = SLACK_RECORDS) -> None:
        self._core = core
        self._slack = slack_records
        self._held: deque[tuple[int, str]] = deque()
        self._copied_at: dict[str, int] = {}
        self._last_batch = 0
        self._copies_paid = 0

    def __len__(self) -> int:
        return len(self._held)

    def recovered(self, seqs: Sequence[int], owners: Sequence[str]) -> None:
        """Take over what the log held when it was opened."""
        self._held.extend(zip(seqs, owners, strict=True))

    def plan(self) -> tuple[list[Append], int]:
        """The copies to append with the next batch, and the seq below which records may be dropped with it."""
        if len(self._held) <= 2 * self._core.live_owners() + self._slack:
            return [], 0
        copies: list[Append] = []
        drop_below = 0
        seen: set[str] = set()
        for _ in range(min(len(self._held), max(STEP_RECORDS, 2 * self._last_batch))):
            if len(copies) > self._copies_paid:
                break
            seq, owner = self._held.popleft()
            drop_below = seq + 1
            # A record that an earlier copy replaced needs no second copy; the copy itself does, when it comes to the head.
            if owner not in seen and self._copied_at.get(owner, 0) <= seq:
                seen.add(owner)
                self._copied_at.pop(owner, None)
                copies.extend(Append(record, owner, force=False) for record in self._core.live_records(owner))
        return copies, drop_below

    def written(self, copies: int, batch: Sequence[Append], seqs: Sequence[int]) -> None:
        """Learn what the log holds now; the first `copies` appends of the batch came from `plan`."""
        self._last_batch = len(batch) - copies
        # A debt is carried over, a credit is not: after a quiet time there shall be no long copying.
        self._copies_paid = min(0, self._copies_paid - copies) + self._last_batch
        self._held.extend([(seq, append.owner) for append, seq in zip(batch, seqs, strict=True) if seq])
        for append, seq in zip(batch[:copies], seqs[:copies], strict=True):
            assert seq, "a copy is a record, and nothing refuses it"
            self._copied_at.setdefault(append.owner, seq)
