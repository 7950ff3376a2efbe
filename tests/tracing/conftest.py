"""Spans that stay in memory, and a daemon that makes some."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from spans_seen import Seen, daemon_of

from coordinator.server import Daemon
from participant_sdk import tracing
from troth import logs


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Expected failures say nothing."""
    with logs.quiet():
        yield


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Every span that has ended. The process has no provider of its own that would outlive the test."""
    seen = Seen()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen.exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    tracing.enable(provider)
    yield seen
    tracing.disable()
    provider.shutdown()


@pytest_asyncio.fixture
async def daemon(seen: Seen, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that traces, and serves metrics."""
    daemon = daemon_of(tmp_path, metrics_listen="127.0.0.1:0")
    await daemon.start()
    yield daemon
    await daemon.stop()
