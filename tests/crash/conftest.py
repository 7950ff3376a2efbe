"""Lets the tests here use the shop's processes and checker, and the points of tests/e2e."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
for directory in (TESTS / "e2e", TESTS / "postgres", TESTS / "mariadb", ROOT / "examples" / "shop", Path(__file__).parent):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
