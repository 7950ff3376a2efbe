"""Makes orders.csv, products.csv and customers.csv: always the same ones.

1,000 orders. Sixty must fail, each for one reason; all others can succeed in whatever order they come: there is stock
and money for all of them.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from catalog import COLUMNS

ORDERS, PRODUCTS, CUSTOMERS = 1000, 100, 200
FAILING = ("NO_STOCK", "NO_FUNDS", "UNKNOWN_PRODUCT")
FAILING_EACH = 20
Row = tuple[str, str, str, int, int]


def main() -> None:
    """Write the three files beside this one."""
    chance = random.Random(1978)  # the year of Gray's "Notes on Data Base Operating Systems"
    prices = {f"p{number:03}": chance.randrange(199, 9999) for number in range(1, PRODUCTS + 1)}
    customers = [f"c{number:03}" for number in range(1, CUSTOMERS + 1)]
    fate = dict(zip(chance.sample(range(ORDERS), FAILING_EACH * len(FAILING)), FAILING * FAILING_EACH, strict=True))
    stock, balance = Counter(dict.fromkeys(prices, 5)), Counter(dict.fromkeys(customers, 2500))
    rows: list[Row] = []
    for number in range(ORDERS):
        order = _order(chance, f"o{number + 1:04}", chance.choice(customers), prices)
        # What must fail is provided for too: it fails for its own reason, and for no other.
        rows += _spoil(order, fate[number]) if number in fate else order
        for _, customer, product, quantity, price in order:
            stock[product] += quantity
            balance[customer] += quantity * price
    _write("orders.csv", COLUMNS, rows)
    _write("products.csv", ("product", "stock"), stock.items())
    _write("customers.csv", ("customer", "balance_cents"), balance.items())


def _order(chance: random.Random, name: str, customer: str, prices: dict[str, int]) -> list[Row]:
    """An order of one to five lines."""
    products = chance.sample(sorted(prices), chance.choice((1, 2, 2, 3, 3, 4, 5)))
    return [(name, customer, product, chance.randrange(1, 5), prices[product]) for product in products]


def _spoil(order: list[Row], failure: str) -> list[Row]:
    """Let the order's last line be the one that cannot be."""
    name, customer, product, quantity, price = order[-1]
    spoilt: dict[str, Row] = {
        "NO_STOCK": (name, customer, product, 5000, 0),
        "NO_FUNDS": (name, customer, product, quantity, 999_999),
        "UNKNOWN_PRODUCT": (name, customer, "p999", quantity, price),
    }
    return [*order[:-1], spoilt[failure]]


def _write(name: str, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with (Path(__file__).parent / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
