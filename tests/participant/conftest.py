"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from paper_coordinator import PaperCoordinator

from participant_sdk import session
from tests.given_back import no_task_and_no_timer_is_left as no_task_and_no_timer_is_left
from tests.given_back import no_thread_and_no_descriptor_is_left as no_thread_and_no_descriptor_is_left
from troth.backoff import Backoff


@pytest.fixture
async def coordinator() -> AsyncIterator[PaperCoordinator]:
    """A coordinator that answers as the test says."""
    async with PaperCoordinator() as paper:
        yield paper


@pytest.fixture
def redials_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant that is sent away is back without a long wait."""
    monkeypatch.setattr(session, "REDIAL", Backoff(0.01, 0.02))
