"""A service for gift cards, with a bug: it works in every demonstration, and loses its promise in a crash.

Can you see it? `test_cards.py` can. What the bug is stands in docs/how-to/test-your-service.md, and below in `make_mended`.
"""

from __future__ import annotations

from pathlib import Path

from participant_sdk import Database, Participant, Refuse, SqliteResource

SCHEMA = """
CREATE TABLE IF NOT EXISTS cards (
    card  TEXT NOT NULL PRIMARY KEY,
    cents INTEGER NOT NULL CHECK (cents >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
    id    INTEGER NOT NULL PRIMARY KEY,
    card  TEXT NOT NULL,
    cents INTEGER NOT NULL
) STRICT;
"""


def make_cards(directory: Path) -> Participant:
    """The service, on files below a directory."""
    cards = _make(directory)
    receipts = directory / "receipts.txt"

    @cards.operation(locks=lambda card: [f"card/{card}"])
    def redeem(db: Database, *, card: str, cents: int) -> int:
        """Take money from a card, and write a receipt; returns what is left."""
        left = _take(db, card, cents)
        with receipts.open("a", encoding="utf-8") as file:
            file.write(f"{card} {cents}\n")
        return left

    return cards


def make_mended(directory: Path) -> Participant:
    """The same without the bug: the receipt is a row, and rows come and go with the transaction."""
    cards = _make(directory)

    @cards.operation(locks=lambda card: [f"card/{card}"])
    def redeem(db: Database, *, card: str, cents: int) -> int:
        """Take money from a card, and write a receipt; returns what is left."""
        left = _take(db, card, cents)
        db.execute("INSERT INTO receipts (card, cents) VALUES (?, ?)", (card, cents))
        return left

    return cards


def _make(directory: Path) -> Participant:
    resource = SqliteResource(directory / "cards.db", schema=SCHEMA)
    cards = Participant("cards", resource=resource, data_directory=directory / "cards", coordinator="127.0.0.1:7420")

    @cards.operation(locks=lambda card: [f"card/{card}"])
    def issue(db: Database, *, card: str, cents: int) -> None:
        """Sell a new card."""
        db.execute("INSERT INTO cards VALUES (?, ?)", (card, cents))

    return cards


def _take(db: Database, card: str, cents: int) -> int:
    row = db.one("SELECT cents FROM cards WHERE card = ?", (card,))
    if row is None or row[0] < cents:
        raise Refuse("NOT_ENOUGH", f"card {card} has less than {cents} cents")
    left: int = row[0] - cents
    db.execute("UPDATE cards SET cents = ? WHERE card = ?", (left, card))
    return left
