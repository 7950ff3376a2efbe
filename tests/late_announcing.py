"""Branches are announced late: what an interactive call leaves behind stays where it is, longer than the next call takes to come.

    scripts/test -p tests.late_announcing tests/frameworks tests/client tests/postgres

A branch that no commit names (its call's answer was lost, or told nothing) is announced to the coordinator after
`Limits.enlist_after_seconds`, hears that its transaction is over, and lets go of its locks. A test whose next transaction wants
those locks, and is a little slower than that, passes until an interpreter is quick. With this plugin every participant of the
test's process that has the usual limit waits `SECONDS`: such a test fails each time.
"""

from __future__ import annotations

from dataclasses import fields

from participant_sdk.limits import Limits

SECONDS = 0.5


def pytest_configure() -> None:
    """The plugin is there: all of them announce late."""
    usual = {one.name: one.default for one in fields(Limits)}
    Limits.__init__.__defaults__ = tuple({**usual, "enlist_after_seconds": SECONDS}.values())
