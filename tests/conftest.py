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
WAITING = ("tests/conform/", "tests/crash/", "tests/e2e/")
COMPUTING = ("tests/sim",)
"""Lanes begin with what waits most of its time and what computes all of it, in turn, so that no core is idle meanwhile. Both are
long, and what comes last is short."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: write what happens now into the transcripts, to be reviewed as a diff."""
    parser.addoption("--rewrite", action="store_true", help="rewrite scripted transcripts with what happens now")


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a lane: the order of modules. Without lanes they come as they stand."""
    if not hasattr(config, "workerinput"):
        return
    modules = list(dict.fromkeys(_module(item.nodeid) for item in items))
    places: dict[str, float] = {}
    for kind in (WAITING, COMPUTING):
        own = [module for module in modules if module.startswith(kind)]
        places.update((module, number / len(own)) for number, module in enumerate(own))
    items.sort(key=lambda item: places.get(_module(item.nodeid), 1.0))


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
            return nodeid if nodeid.startswith(EACH_BY_ITSELF) else _module(nodeid)

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
