"""What failed is tried once more, alone and twice: a failure that comes each time is told apart from one that came once.

    scripts/test -p tests.again        what CI runs

Some ten thousand tests kill processes, stop servers and race them, three lanes wide, on machines that we do not know. One test in
a run that fails for want of a core, or for luck, hides what the run has to say of a change. So at most `FEW` tests that failed are
run again when everything else is over, in an interpreter of their own; where all of them pass `TIMES` times, the run passes, and
its last lines name them. Such a name is a fault to be mended (docs/explanation/testing.md, *What it found*), and no news of the
change.

What fails each time fails here as well: whatever is seeded, scripted or merely wrong. So do more than `FEW`, and tests that cannot
be collected. docs/decisions/0080-once-more.md has the reasons.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator

import pytest

FEW = 3
TIMES = 2


class Again:
    """What failed in this run."""

    def __init__(self) -> None:
        self.failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In a lane of xdist's, and without lanes; a test whose lane died with it is among them."""
        if report.failed:
            self.failed[report.nodeid] = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """After the summary: so the first failure stands there whole."""
        yield
        if session.exitstatus != pytest.ExitCode.TESTS_FAILED or not 0 < len(self.failed) <= FEW:
            return
        terminal = session.config.get_terminal_writer()
        for number in range(TIMES):
            terminal.line(f"again: {len(self.failed)} that failed, alone, {number + 1} of {TIMES}")
            done = self._once_more(session.config)
            if done.returncode != pytest.ExitCode.OK:
                terminal.line(done.stdout + done.stderr)
                return
        for test in self.failed:
            terminal.line(f"again: FAILED ONCE, passed {TIMES} times alone: {test}")
        session.exitstatus = pytest.ExitCode.OK

    def _once_more(self, config: pytest.Config) -> subprocess.CompletedProcess[str]:
        profile = config.getoption("--hypothesis-profile", None)
        options = [f"--hypothesis-profile={profile}"] if profile else []
        command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *options, *self.failed]
        return subprocess.run(command, cwd=config.rootpath, capture_output=True, text=True, check=False)


def pytest_configure(config: pytest.Config) -> None:
    """In a run without lanes, and in the process that has given its tests to lanes."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Again())
