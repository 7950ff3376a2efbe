"""An engine with everything around it, for its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from scripted_core import GateLog, ScriptedCore

from troth.engine import Engine, read_clocks
from troth.errors import ProtocolError
from troth.ready import Effect, Event, Instant


@dataclass
class Rig:
    """An engine with everything around it."""

    core: ScriptedCore = field(default_factory=ScriptedCore)
    log: GateLog = field(default_factory=GateLog)
    done: list[Effect] = field(default_factory=list)
    violations: list[tuple[Event, ProtocolError]] = field(default_factory=list)
    perform_error: Exception | None = None
    clocks: Callable[[], Instant] = read_clocks
    batch_max: int = 2048

    def __post_init__(self) -> None:
        self._changed = asyncio.Event()
        self.engine = Engine(
            "coordinator",
            self.core,
            self.log,
            self.perform,
            on_violation=lambda event, error: self.violations.append((event, error)),
            clocks=self.clocks,
            batch_max=self.batch_max,
        )

    def perform(self, effect: Effect) -> None:
        if self.perform_error is not None:
            raise self.perform_error
        self.done.append(effect)
        self._changed.set()

    async def until_done(self, *effects: Effect) -> None:
        """Wait until exactly these were performed, in this order."""
        while len(self.done) < len(effects):
            self._changed.clear()
            await self._changed.wait()
        assert self.done == list(effects)

    async def failed(self) -> BaseException:
        """Wait for the engine's end."""
        return await asyncio.wait_for(asyncio.shield(self.engine.failed), 10)


Start = Callable[[Rig], Awaitable[Rig]]
