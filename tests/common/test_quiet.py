"""Lines that a peer can cause are few, and what was left out is counted."""

from __future__ import annotations

from typing import Any

from troth.quiet import INTERVAL_SECONDS, LINES_MAX, Quiet


class Told:
    """A log, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.quiet = Quiet(lambda: self.now)

    def tell(self, text: str, **fields: Any) -> None:
        self.quiet.tell(lambda text, **fields: self.lines.append((text, fields)), text, **fields)


def test_a_flood_of_one_kind_is_told_in_a_few_lines() -> None:
    told = Told()
    for number in range(5_000):
        told.tell("malformed", number=number)
    assert told.lines == [("malformed", {"number": number}) for number in range(LINES_MAX)]


def test_what_was_left_out_is_counted_with_the_next_line() -> None:
    told = Told()
    for _ in range(LINES_MAX + 7):
        told.tell("malformed")
    told.now = INTERVAL_SECONDS
    told.tell("malformed")
    told.tell("malformed")
    assert [fields for _, fields in told.lines[LINES_MAX:]] == [{"left_out": 7}, {}]


def test_a_flood_of_one_kind_hides_no_other() -> None:
    told = Told()
    for _ in range(5_000):
        told.tell("malformed")
    told.tell("rejected")
    assert [text for text, _ in told.lines].count("rejected") == 1
