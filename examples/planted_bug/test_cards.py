"""Finds the bug that was planted in `cards.py`: the first of these tests fails, and says where.

python -m pytest examples/planted_bug
"""

from __future__ import annotations

from pathlib import Path

from cards import make_cards, make_mended

from participant_sdk import Database, Participant
from participant_sdk.client import call
from participant_sdk.testing.pytest_plugin import CrashPoints

REDEEM = call("cards", "redeem", card="c1", cents=300)
ISSUE = call("cards", "issue", card="c1", cents=1000)


async def state(cards: Participant, directory: Path) -> object:
    """What counts: the cards, and the receipts wherever they are. Numbers of rows may have gaps, so they do not count."""

    def look(db: Database) -> object:
        return db.execute("SELECT card, cents FROM cards"), db.execute("SELECT card, cents FROM receipts ORDER BY id")

    receipts = directory / "receipts.txt"
    return await cards.read(look), receipts.read_text(encoding="utf-8") if receipts.exists() else ""


def test_a_redemption_survives_every_crash(crash_points: CrashPoints) -> None:
    crash_points.check(make_cards, REDEEM, prepare=[ISSUE], state=state)


def test_the_mended_one_does(crash_points: CrashPoints) -> None:
    crash_points.check(make_mended, REDEEM, prepare=[ISSUE], state=state)
