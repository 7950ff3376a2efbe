"""How the run looks while it runs: a live display on a terminal, plain lines elsewhere. All of it goes to stderr."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from chaos import Death
from front import Told
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 5.0
"""How often a plain line is printed."""


class Display:
    """Shows the orders that are done, and each death. Use it as a context manager."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._total = total
        self._began = time.monotonic()
        self._last_line = self._began
        self.counts: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._progress = Progress(
            TextColumn("[bold]orders"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[counts]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("orders", total=total, counts="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when something is true of the counts."""
        while not true():
            self._changed.clear()
            await self._changed.wait()

    def say(self, text: str) -> None:
        """Tell something, with the time since the start."""
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  {text}", markup=False, soft_wrap=True)

    def done(self, told: Told) -> None:
        """One more order is done."""
        self.counts[told.outcome.lower()] += 1
        self.counts["done"] += 1
        self._changed.set()
        self._progress.update(self._task, advance=1, counts=self._summary())
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last_line >= LINE_SECONDS or self.counts["done"] == self._total):
            self._last_line = now
            self.say(f"{self.counts['done']} of {self._total} orders done: {self._summary()}")

    def retried(self, told: Told) -> None:
        """One more attempt follows."""
        self.counts["retries"] += 1

    def died(self, death: Death) -> None:
        """A process was killed, and is back."""
        self.counts["back"] += 1
        self._changed.set()
        self.say(f"killed {death.process}: {death.moment}; serving again after {death.back_seconds:.1f} s")

    def _summary(self) -> str:
        shown = ("committed", "aborted", "unknown", "retries")
        return ", ".join(f"{self.counts[name]} {name}" for name in shown if self.counts[name])
