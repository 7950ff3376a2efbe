"""Options for all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: write what happens now into the transcripts, to be reviewed as a diff."""
    parser.addoption("--rewrite", action="store_true", help="rewrite scripted transcripts with what happens now")


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    """Whether transcripts are to be rewritten."""
    return bool(request.config.getoption("--rewrite"))
