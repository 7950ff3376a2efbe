"""What the README and the tutorial show is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import session

PAGES = ("README.md", "docs/tutorial/first-participant.md", "docs/how-to/test-your-service.md", "docs/how-to/upgrade.md")


@pytest.mark.parametrize("name", PAGES)
def test_page_happens_as_it_says(name: str, tmp_path: Path) -> None:
    page = session.ROOT / name
    assert session.steps(page.read_text(encoding="utf-8")), "there is nothing to type"
    session.play(page, tmp_path)
