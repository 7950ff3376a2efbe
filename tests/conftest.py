"""Options for all tests, and how they are divided among lanes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

EACH_BY_ITSELF = (
    "tests/crash/test_crash_points.py", "tests/crash/test_nth_failure.py", "tests/e2e/", "tests/repo/", "tests/sim/",
    "tests/sim_engine/", "tests/sim_locks/", "tests/sim_resource/", "tests/model/", "tests/docs/",
)  # fmt: skip
"""Long tests that share nothing with their module."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: write what happens now into the transcripts, to be reviewed as a diff."""
    parser.addoption("--rewrite", action="store_true", help="rewrite scripted transcripts with what happens now")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there are lanes (`scripts/test`), the tests of one module run in one of them: they share its servers."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        module = item.nodeid.partition("::")[0]
        if not module.startswith(EACH_BY_ITSELF):
            item.add_marker(pytest.mark.xdist_group(module))


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
