"""What a process finishes that has taken it over from its log is no part of the trace in which it began, and points to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from spans_seen import Seen, daemon_of

from coordinator.server import Daemon
from participant_sdk import LogResource, Participant
from participant_sdk.client import Client, OutcomeUnknown, call
from troth import failpoints


class Killed(Exception):
    """What ends an engine as far as that can be done inside of a process."""


def bank(name: str, directory: Path, daemon: Daemon) -> Participant:
    """A participant that notes an amount."""
    made = Participant(name, resource=LogResource(), data_directory=directory / name, coordinator=daemon.address)

    @made.operation(locks=[])
    def note(branch: Any, *, amount: int) -> int:
        return amount

    return made


@contextlib.asynccontextmanager
async def banks(directory: Path, daemon: Daemon) -> AsyncIterator[tuple[Participant, Participant]]:
    """Two of them, connected; crashed at the end."""
    left, right = bank("left", directory, daemon), bank("right", directory, daemon)
    await asyncio.gather(left.start(), right.start())
    await asyncio.gather(left.wait_connected(), right.wait_connected())
    yield left, right
    await asyncio.gather(left.crash(), right.crash())


def pointed_to(span: ReadableSpan) -> list[int]:
    """The traces that a span links to."""
    return [link.context.trace_id for link in span.links]


async def test_what_is_finished_after_a_crash_links_to_the_trace_in_which_it_began(seen: Seen, tmp_path: Path) -> None:
    def dies_when_decided(point: str) -> None:
        if point == "coordinator:after-sync:decided":
            raise Killed

    first = daemon_of(tmp_path)
    await first.start()
    async with banks(tmp_path, first), Client(first.address, grace_seconds=0.01) as client:
        with failpoints.observed(dies_when_decided), contextlib.suppress(OutcomeUnknown):
            await client.run(call("left", "note", amount=1), call("right", "note", amount=2), timeout=4)  # in which it is decided
    await first.stop()
    began = seen.one("troth.transaction").context.trace_id
    assert len(seen.named("troth.prepare")) == 2 and not seen.named("troth.finish") and not seen.named("troth.recovery")
    second = daemon_of(tmp_path)
    await second.start()
    async with banks(tmp_path, second):
        await seen.until("troth.recovery", 3)
    await second.stop()
    recoveries = seen.named("troth.recovery")
    assert [pointed_to(span) for span in recoveries] == [[began]] * 3
    assert all(span.parent is None and span.context.trace_id != began for span in recoveries)
    assert len({span.context.trace_id for span in recoveries}) == 3
    told = sorted(str((span.attributes or {}).get("troth.participant", "")) for span in recoveries)
    assert told == ["", "left", "right"]
    assert seen.named("troth.recovery", troth_decision="COMMIT", troth_outcome="DONE")
    assert seen.named("troth.recovery", troth_outcome="COMMITTED"), "the coordinator's own"
