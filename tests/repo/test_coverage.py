"""The cores, the engine, the link and the log: every line and every branch is reached by their own tests.

Property tests do not count: what they reach depends on the examples of the day. Neither do tests of known-bad variants, nor sweeps
over every byte of a file, which reach nothing that others do not, and take long when each line is counted. It takes half a minute;
one part alone:

    ./scripts/test tests/repo/test_coverage.py -k coordinator
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sources import run

THEIR_TESTS = {
    "coordinator/core": ["tests/coordinator_core"],
    "participant_sdk/core": ["tests/participant_core"],
    "troth/log": ["tests/log"],
    "troth/mariadb": ["tests/mariadb"],
    "troth": ["tests/common", "tests/identity"],
}
SWEEPS = ("--ignore=tests/log/test_log_damage.py", "--ignore-glob=*mutants.py")
ELSEWHERE = {"troth": "troth/log/*,troth/mariadb/*,troth/v1/*,troth/entry.py,troth/packages.py"}
"""What lies below a directory, and has tests of its own (the last two in `test_packages.py`, as processes) or is generated."""


@pytest.mark.parametrize("directory", THEIR_TESTS)
def test_every_branch_is_reached_by_its_own_tests(directory: str, tmp_path: Path) -> None:
    coverage = (sys.executable, "-m", "coverage")
    data, omitted = f"--data-file={tmp_path / 'coverage'}", f"--omit={ELSEWHERE.get(directory, '')}"
    tests = ("-m", "pytest", "-p", "no:cacheprovider", "-m", "not hypothesis", f"--basetemp={tmp_path / 'tests'}")
    tests = (*tests, *SWEEPS, *THEIR_TESTS[directory])
    # What MySQL reaches, MariaDB reaches too.
    done = run(*coverage, "run", "--branch", f"--source={directory}", omitted, data, *tests, TEST_MYSQL_BIN="")
    assert done.returncode == 0, done.stdout
    report = run(*coverage, "report", data, "--show-missing", "--skip-covered", "--fail-under=100", "--precision=2")
    assert report.returncode == 0, report.stdout
