"""The pytest plugin of Troth: the fixture `crash_points` for services. See `participant_sdk.testing.crashpoints`.

    def test_a_debit_survives_every_crash(crash_points):
        crash_points.check(make_bank, call("payments", "debit", account="a", amount=5), prepare=[...])

It is loaded wherever Troth and pytest are installed; what it needs is imported when the fixture is used.

    pytest --troth-crash-at participant:after-apply:operation@1     crash there only: what a failure tells you to run
    pytest --troth-crash-twice                                      crash again at every point of each recovery: some minutes
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from participant_sdk import Participant
    from participant_sdk.client.client import Call

_SUMMARY = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the plugin."""
    group = parser.getgroup("troth", "Troth: crash-and-recover tests of services")
    where = "crash there only, as ROLE:MOMENT:WHAT@N; repeat for more"
    group.addoption("--troth-crash-at", action="append", default=[], metavar="POINT", help=where)
    group.addoption("--troth-crash-twice", action="store_true", help="crash again at every point of each recovery")


def pytest_configure(config: pytest.Config) -> None:
    """Where the lines of the summary are kept."""
    config.stash[_SUMMARY] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was run: a check that came by no crash points would be worth nothing."""
    for line in config.stash[_SUMMARY]:
        terminalreporter.write_line(line)


class CrashPoints:
    """What the fixture gives to a test."""

    def __init__(self, directory: Path, config: pytest.Config, test: str) -> None:
        self._directory = directory
        self._config = config
        self._test = test

    def check(
        self,
        make: Callable[[Path], Participant],
        *calls: Call,
        prepare: Sequence[Call] = (),
        state: Callable[[Participant, Path], Awaitable[object]] | None = None,
    ) -> None:
        """Run the calls as one transaction, and crash at every point that they come by.

        `make`     makes the participant on files below a directory; called anew at each restart, as a new process would.
        `calls`    what is tested: calls of that participant, that commit when nothing crashes.
        `prepare`  calls that run before, in peace, each as a transaction of its own.
        `state`    returns what counts of the service's data, given the participant and the directory; by default every row of
                   every table. Leave out what differs from run to run, such as the time; add what lives outside the database.

        Call it from a plain `def` test. Raises `crashpoints.BrokenPromise` for the first promise that does not hold.
        """
        from participant_sdk.testing import crashpoints

        only = [crashpoints.Point.parse(text) for text in self._config.getoption("--troth-crash-at")]
        twice = bool(self._config.getoption("--troth-crash-twice"))
        subject = crashpoints.Subject(make, calls, tuple(prepare), state)
        began = time.monotonic()
        failure = ""
        try:
            report = crashpoints.run(subject, self._directory, only=only, twice=twice)
        except crashpoints.BrokenPromise as broken:
            failure = f"{broken}\n  run again:   {self._replay(broken.points)}"
        if failure:
            pytest.fail(failure, pytrace=False)
        operations = ", ".join(f"{one.participant}.{one.operation.name}" for one in calls)
        self._config.stash[_SUMMARY].append(
            f"troth: {operations}: {len(report.points)} crash points in {len(crashpoints.SCENARIOS)} scenarios, "
            f"{report.crashes} crashes, {time.monotonic() - began:.1f} s: every promise kept"
        )

    def _replay(self, points: Sequence[object]) -> str:
        if len(points) == 2:
            return f"pytest '{self._test}' --troth-crash-twice --troth-crash-at '{points[0]}'"
        return " ".join([f"pytest '{self._test}'", *(f"--troth-crash-at '{point}'" for point in points)])


@pytest.fixture
def crash_points(request: pytest.FixtureRequest, tmp_path: Path) -> CrashPoints:
    """Runs a service's operation through crash-and-recover at every named crash point."""
    return CrashPoints(tmp_path, request.config, request.node.nodeid)
