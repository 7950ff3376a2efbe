"""Spans as a reader sees them: by name, as a tree; and a daemon that makes some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from coordinator.config import load
from coordinator.server import Daemon, make_daemon

Tree = dict[str, "Tree"]


def daemon_of(directory: Path, **flags: str) -> Daemon:
    """A daemon on a directory, which may have been another's."""
    settings = {"data_directory": str(directory / "c1"), "listen": "127.0.0.1:0", "tracing": "true", "log_transactions": "all"}
    return make_daemon(load(flags={**settings, **flags}, environment={}).config)


class Seen:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All of them."""
        return self.exporter.get_finished_spans()

    def named(self, name: str, **attributes: str) -> list[ReadableSpan]:
        """Those of a name, with these attributes (`_` for `.`)."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [
            span for span in self.spans if span.name == name and wanted.items() <= dict(span.attributes or {}).items()
        ]  # fmt: skip

    def one(self, name: str, **attributes: str) -> ReadableSpan:
        """The only one of a name."""
        (span,) = self.named(name, **attributes)
        return span

    async def until(self, name: str, count: int = 1) -> None:
        """Wait until so many of a name have ended."""
        async with asyncio.timeout(60):
            while len(self.named(name)) < count:  # noqa: ASYNC110 - spans end in other threads, and nobody tells
                await asyncio.sleep(0.005)

    def tree(self) -> Tree:
        """Names within names. Brothers of one name get a number, in the order in which they began."""
        known = {span.context.span_id for span in self.spans}
        return self._below(lambda span: span.parent is None or span.parent.span_id not in known)

    def _below(self, wanted: Callable[[ReadableSpan], bool]) -> Tree:
        found: Tree = {}
        for span in sorted(filter(wanted, self.spans), key=lambda span: (span.start_time or 0, span.context.span_id)):
            own = span.context.span_id
            name = span.name
            while name in found:
                name += "+"
            found[name] = self._below(lambda other, own=own: other.parent is not None and other.parent.span_id == own)  # type: ignore[misc]  # bound now
        return found
