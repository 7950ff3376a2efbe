"""What lets people look at a running process: the metrics, the traces, the console, the webhook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from coordinator.cell.routing import Routes
from coordinator.config import Config
from coordinator.inside import Inside
from coordinator.services.tale import teller
from coordinator.webhook import Webhook

if TYPE_CHECKING:
    from coordinator.console.server import ConsoleServer
    from coordinator.metrics.exporter import Exporter


class Observing:
    """Begins what the settings ask for, and ends it. What is not asked for is not imported."""

    def __init__(self, config: Config, routes: Routes) -> None:
        self._shell = config.shell
        self._routes = routes
        self._tasks: list[asyncio.Task[None]] = []
        self._end_traces: Callable[[], Any] | None = None
        self.exporter: Exporter | None = None
        self.console: ConsoleServer | None = None

    async def start(self) -> None:
        """Raises `ConfigError` for an address that cannot be had, and ModuleNotFoundError without the extra."""
        shell = self._shell
        if (tell := teller(shell.log_transactions)) is not None:
            self._routes.common.over.append(tell)
        if shell.metrics_listen:
            from coordinator.metrics.exporter import Exporter
            from coordinator.metrics.outcomes import Outcomes

            outcomes = Outcomes()
            self._routes.common.over.append(outcomes.hear)
            self._routes.common.refused.append(outcomes.hear_refused)
            self.exporter = Exporter(shell.metrics_listen, self._routes, outcomes)
            self.exporter.start()
        if shell.tracing:
            from coordinator import tracing

            traces, self._end_traces = tracing.start(shell.name)
            self._routes.common.over.append(traces.hear)
        if shell.console_listen:
            from coordinator.console.server import ConsoleServer

            self.console = ConsoleServer(shell, Inside(self._routes))
            self.console.start()
        if shell.on_attention:
            hook = Webhook(shell.on_attention, shell.name, Inside(self._routes))
            self._tasks.append(asyncio.create_task(hook.run(), name="troth-on-attention"))

    async def stop(self) -> None:
        """End all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.console is not None:
            await self.console.stop()
        if self.exporter is not None:
            await self.exporter.stop()
        if self._end_traces is not None:
            await asyncio.to_thread(self._end_traces)
