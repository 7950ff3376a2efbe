"""Options for all tests, and how they are divided among lanes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

EACH_BY_ITSELF = (
    "tests/conform/", "tests/crash/test_crash_points.py", "tests/crash/test_nth_failure.py", "tests/crash/test_points.py",
    "tests/e2e/", "tests/repo/", "tests/sim/", "tests/sim_engine/", "tests/sim_locks/", "tests/sim_resource/", "tests/model/",
    "tests/docs/",
)  # fmt: skip
"""Long tests that share nothing with their module."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: write what happens now into the transcripts, to be reviewed as a diff."""
    parser.addoption("--rewrite", action="store_true", help="rewrite scripted transcripts with what happens now")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where there are lanes (`scripts/test`), the tests of one module run in one of them: they share its servers.

    xdist's own groups are suffixes of the tests' ids, which pytest 9.2 does not let it add any more: each test went by itself then.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(EACH_BY_ITSELF) else nodeid.partition("::")[0]

    return ByModule(config, log)


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether transcripts are to be rewritten."""
    return bool(request.config.getoption("--rewrite"))


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Nothing but reference counts frees anything."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
