"""The pictures in docs/: each page of the console is shown, none is left over; how they are drawn is in tests/console."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = DOCS / "how-to" / "use-the-console.md"
TEMPLATES = ROOT / "coordinator" / "console" / "templates"
NO_PAGES = {"base", "macros"}
"""Templates that are the frame, and parts, of all others."""
PAGES = sorted({path.stem for path in TEMPLATES.glob("*.html")} - NO_PAGES)
DRAWN = sorted(path.name for path in (DOCS / "images").iterdir())


def pictures_of(page: Path, mark: str = "!") -> list[tuple[str, str]]:
    """The pictures that a page shows: the words for who does not see them, and the file. With the mark `!?` those, too, to which it
    has a link: the narrow ones stand in a line."""
    found = re.findall(rf"{mark}\[([^\]]*)\]\(([^)]+\.png)\)", page.read_text(encoding="utf-8"))
    return [(words, (page.parent / target).resolve().name) for words, target in found if "://" not in target]


SHOWN = [one for page in sorted(DOCS.rglob("*.md")) for one in pictures_of(page, "!?")]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_of_the_console_is_shown(page: str) -> None:
    name = "console.png" if page == "home" else f"console-{page.replace('_', '-')}.png"
    assert name in [file for _, file in pictures_of(PAGE)], f"draw {name} in tests/console, and show it on {PAGE.name}"


def test_every_picture_is_shown_once_and_every_one_that_is_shown_is_there() -> None:
    assert sorted(file for _, file in SHOWN) == DRAWN


def test_every_picture_says_what_it_shows() -> None:
    assert [file for words, file in SHOWN if not words.strip()] == []


def test_every_picture_is_drawn_by_a_test_that_can_be_run_again() -> None:
    drawing = (ROOT / "tests" / "console" / "test_console_browser.py").read_text(encoding="utf-8")
    assert [name for name in DRAWN if f'"{name.removesuffix(".png").removesuffix("-phone")}"' not in drawing] == []
