"""The shop's files: products.csv, customers.csv, and orders, one line of an order a row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS = ("order", "customer", "product", "quantity", "unit_price_cents")
NAME_CHARACTERS_MAX = 60
NUMBER_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an order."""

    product: str
    quantity: int
    unit_price_cents: int


@dataclass(slots=True)
class Order:
    """One order."""

    name: str
    customer: str
    lines: list[Line] = field(default_factory=list)

    @property
    def total_cents(self) -> int:
        """What it costs."""
        return sum(line.quantity * line.unit_price_cents for line in self.lines)

    def quantities(self) -> dict[str, int]:
        """How many of each product, by name: everybody takes products in one order, so few wait for each other."""
        found: dict[str, int] = {}
        for line in sorted(self.lines, key=lambda line: line.product):
            found[line.product] = found.get(line.product, 0) + line.quantity
        return found


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no line of an order."""

    line_number: int
    why: str


class BadFile(Exception):
    """A file that holds no orders at all. The text says why."""


class _Wrong(Exception):
    """What is wrong with a row; with the order that it belongs to, when that can be told."""

    def __init__(self, why: str, order: str = "") -> None:
        super().__init__(why)
        self.order = order


def read_products(path: Path) -> dict[str, int]:
    """The opening stock by product."""
    return _read_pairs(path)


def read_customers(path: Path) -> dict[str, int]:
    """The opening balance in cents by customer."""
    return _read_pairs(path)


def _read_pairs(path: Path) -> dict[str, int]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return {name: int(number) for name, number in rows}


def read_orders(path: Path) -> tuple[list[Order], list[BadRow]]:
    """The orders of a file, and its malformed rows.

    Half an order is nobody's wish: an order with a bad row is left out whole.

    Raises `BadFile`.
    """
    orders: dict[str, Order] = {}
    bad: list[BadRow] = []
    left_out: set[str] = set()
    for line_number, row in _rows(path):
        try:
            _take_row(row, orders)
        except _Wrong as wrong:
            left_out.add(wrong.order)
            also = f"; order {wrong.order} is left out" if wrong.order else ""
            bad.append(BadRow(line_number, f"{wrong}{also}"))
    return [order for name, order in orders.items() if name not in left_out], bad


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines below the header. A row is one line: an open quote must not swallow the rest of the file."""
    try:
        # What is no UTF-8 becomes a strange character, and then a malformed row.
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    if not lines or tuple(column.strip() for column in lines[0].split(",")) != COLUMNS:
        raise BadFile(f"{path}: the first line must be {','.join(COLUMNS)}")
    for line_number, line in enumerate(lines[1:], 2):
        if line.strip():
            yield line_number, line


def _take_row(row: str, orders: dict[str, Order]) -> None:
    try:
        values = [value.strip() for value in next(csv.reader([row], strict=True))]
    except csv.Error as error:
        raise _Wrong(f"not CSV: {error}") from error
    if len(values) != len(COLUMNS):
        raise _Wrong(f"{len(values)} columns instead of {len(COLUMNS)}", _name(values[0]))
    name = _name(values[0])
    if not name:
        raise _Wrong(f"{values[0][:40]!r} is no name of an order")
    line = Line(_checked(values[2], "product", name), _number(values[3], 1, name), _number(values[4], 0, name))
    order = orders.setdefault(name, Order(name, _checked(values[1], "customer", name)))
    if order.customer != values[1]:
        raise _Wrong(f"customer {values[1][:40]}, but the order began with {order.customer}", name)
    order.lines.append(line)


def _name(text: str) -> str:
    """The text, or nothing when it cannot be a name."""
    good = 0 < len(text) <= NAME_CHARACTERS_MAX and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
    return text if good else ""


def _checked(text: str, what: str, order: str) -> str:
    if not _name(text):
        raise _Wrong(f"{text[:40]!r} is no name of a {what}", order)
    return text


def _number(text: str, lowest: int, order: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and lowest <= int(text) <= NUMBER_MAX):
        raise _Wrong(f"{text[:40]!r} is no whole number from {lowest} to {NUMBER_MAX}", order)
    return int(text)
