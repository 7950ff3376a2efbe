"""The independent checker: what do the files say, whoever wrote them?

Opens copies of the three databases and of the coordinator's log with Python's own sqlite3, and uses nothing of Troth but the
record definitions. Compares them with the orders, and with what the customers were told.

    python examples/shop/check.py DIRECTORY [ORDERS.csv]
"""

from __future__ import annotations

import csv
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog import Order, read_customers, read_orders, read_products

from troth.v1 import common_pb2, record_pb2

SAMPLES = Path(__file__).parent
SERVICES = ("orders", "inventory", "payments")
COMMITTED, ABORTED = common_pb2.OUTCOME_COMMITTED, common_pb2.OUTCOME_ABORTED
Rows = list[tuple[Any, ...]]


@dataclass(slots=True)
class Row:
    """One rule: how much was looked at, and what is wrong."""

    title: str
    looked_at: int = 0
    wrong: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        """Look at one more thing."""
        self.looked_at += 1
        if not true:
            self.wrong.append(otherwise)


@dataclass(slots=True)
class Report:
    """What the checker found."""

    orders: int
    committed: int
    aborted: int
    in_doubt: int
    rows: list[Row]

    @property
    def violations(self) -> int:
        """How many things are wrong, over all rules."""
        return sum(len(row.wrong) for row in self.rows)


@dataclass(slots=True)
class Facts:
    """Everything that the files say."""

    orders: Rows
    order_lines: Rows
    stock: dict[str, int]
    shipments: Rows
    balances: dict[str, int]
    charges: Rows
    told: list[dict[str, str]]
    coordinator: CoordinatorLog
    participants: dict[str, ParticipantLog]


@dataclass(slots=True)
class CoordinatorLog:
    """What the coordinator's log says about transactions."""

    decided: dict[str, set[str]] = field(default_factory=dict)
    """Participants by transaction, of commit decisions."""
    ended: dict[str, int] = field(default_factory=dict)
    keys_open: set[str] = field(default_factory=set)
    heuristic: list[str] = field(default_factory=list)
    from_the_beginning: bool = True
    """Whether nothing has been cleaned away yet."""


@dataclass(slots=True)
class ParticipantLog:
    """What one participant's log says about branches."""

    active: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)
    finished: dict[str, int] = field(default_factory=dict)
    parked: list[str] = field(default_factory=list)

    @property
    def in_doubt(self) -> set[str]:
        """Branches that voted YES and do not know the decision."""
        return self.prepared - self.finished.keys()

    @property
    def locked(self) -> set[str]:
        """Branches with work that was never voted for, and never undone."""
        return self.active - self.prepared - self.finished.keys()


def check(directory: Path, orders: Iterable[Order]) -> Report:
    """Check everything below the directory of a run, for these orders."""
    return judge(read(directory), list(orders))


def judge(facts: Facts, placed: list[Order]) -> Report:
    """Hold what the files say against what was ordered."""
    names = {row[0] for row in facts.orders}
    finals = {told["order"]: told for told in facts.told if told["final"] == "1"}
    rows = [
        _everywhere_or_nowhere(facts, placed),
        _exactly_once(facts, placed),
        _stock_conserved(facts),
        _money_conserved(facts),
        _told_the_truth(facts, placed, finals),
        _transactions_as_told(facts),
        _failed_as_they_must(placed, finals),
        _nothing_left(facts),
    ]
    in_doubt = sum(len(log.in_doubt) for log in facts.participants.values())
    in_doubt += sum(1 for told in finals.values() if told["outcome"] == "UNKNOWN")
    aborted = sum(1 for told in finals.values() if told["outcome"] == "ABORTED")
    return Report(len(placed), len(names), aborted, in_doubt, rows)


# ---- the rules


def _everywhere_or_nowhere(facts: Facts, placed: list[Order]) -> Row:
    row = Row("every order is in all three services, or in none")
    ordered = {name for name, *_ in facts.orders}
    lined = {name for name, *_ in facts.order_lines}
    shipped = {name for name, *_ in facts.shipments}
    charged = {name for name, *_ in facts.charges}
    for name in sorted({order.name for order in placed} | ordered | lined | shipped | charged):
        where = {"orders": name in ordered and name in lined, "inventory": name in shipped, "payments": name in charged}
        row.expect(len(set(where.values())) == 1, f"{name} is in {[place for place in where if where[place]]} only")
    return row


def _exactly_once(facts: Facts, placed: list[Order]) -> Row:
    row = Row("each effect was applied exactly once, as ordered")
    ordered = {name for name, *_ in facts.orders}
    wanted: Counter[tuple[Any, ...]] = Counter()
    for order in placed:
        if order.name in ordered:
            wanted["orders", order.name, order.customer, order.total_cents] += 1
            wanted["charges", order.name, order.customer, order.total_cents] += 1
            wanted.update(("shipments", order.name, *pair) for pair in order.quantities().items())
            wanted.update(("order_lines", order.name, line.product, line.quantity, line.unit_price_cents) for line in order.lines)
    tables = {
        "orders": facts.orders,
        "charges": facts.charges,
        "shipments": facts.shipments,
        "order_lines": facts.order_lines,
    }
    found = Counter((table, *values) for table, rows in tables.items() for values in rows)
    for effect in sorted(wanted.keys() | found.keys(), key=str):
        row.expect(found[effect] == wanted[effect], f"{effect} is there {found[effect]} times, not {wanted[effect]}")
    return row


def _stock_conserved(facts: Facts) -> Row:
    row = Row("stock is conserved: opening = left + shipped")
    shipped: Counter[str] = Counter()
    for _, product, quantity in facts.shipments:
        shipped[product] += quantity
    opening = read_products(SAMPLES / "products.csv")
    for product in sorted(opening.keys() | facts.stock.keys() | shipped.keys()):
        left = facts.stock.get(product, 0)
        row.expect(
            opening.get(product, 0) == left + shipped[product] and left >= 0,
            f"{product}: {opening.get(product, 0)} at first, {left} left, {shipped[product]} shipped",
        )
    return row


def _money_conserved(facts: Facts) -> Row:
    row = Row("money is conserved: opening = left + charged")
    charged: Counter[str] = Counter()
    for _, customer, amount in facts.charges:
        charged[customer] += amount
    opening = read_customers(SAMPLES / "customers.csv")
    for customer in sorted(opening.keys() | facts.balances.keys() | charged.keys()):
        left = facts.balances.get(customer, 0)
        row.expect(
            opening.get(customer, 0) == left + charged[customer] and left >= 0,
            f"{customer}: {opening.get(customer, 0)} at first, {left} left, {charged[customer]} charged",
        )
    ordered = sum(total for *_, total in facts.orders)
    row.expect(ordered == charged.total(), f"orders sum up to {ordered}, charges to {charged.total()}")
    return row


def _told_the_truth(facts: Facts, placed: list[Order], finals: dict[str, dict[str, str]]) -> Row:
    row = Row("what each customer was told is what happened")
    ordered = {name for name, *_ in facts.orders}
    for order in placed:
        told = finals.get(order.name, {"outcome": "nothing"})["outcome"]
        happened = "COMMITTED" if order.name in ordered else "ABORTED"
        row.expect(told == happened, f"{order.name}: told {told}, happened {happened}")
    return row


def _transactions_as_told(facts: Facts) -> Row:
    """The same for every single attempt, against the logs instead of the tables."""
    row = Row("every transaction ended in the logs as it was told")
    for told in facts.told:
        name = told["transaction_id"]
        if not name or told["outcome"] == "UNKNOWN":
            continue
        finished = {place: log.finished.get(name) for place, log in facts.participants.items()}
        if told["outcome"] == "ABORTED":
            broken = [place for place, outcome in finished.items() if outcome == COMMITTED]
            row.expect(not broken and name not in facts.coordinator.decided, f"{name}: told ABORTED, {broken} committed")
        elif name in facts.coordinator.decided or facts.coordinator.from_the_beginning:
            wrong = [place for place, outcome in finished.items() if outcome == ABORTED]
            participants = facts.coordinator.decided.get(name, set())
            row.expect(
                participants == set(SERVICES) and not wrong,
                f"{name}: told COMMITTED, decided for {sorted(participants)}, rolled back at {wrong}",
            )
    return row


def _failed_as_they_must(placed: list[Order], finals: dict[str, dict[str, str]]) -> Row:
    row = Row("orders failed where they must, and only there")
    stock, balances = read_products(SAMPLES / "products.csv"), read_customers(SAMPLES / "customers.csv")
    impossible = {order.name: codes for order in placed if (codes := _why_impossible(order, stock, balances))}
    wanted_stock, wanted_money = Counter[str](), Counter[str]()
    for order in placed:
        if order.name not in impossible:
            wanted_stock.update(order.quantities())
            wanted_money[order.customer] += order.total_cents
    for order in placed:
        # Where all orders together want more than there is, it depends on who comes first.
        scarce = {"NO_STOCK" for name, more in order.quantities().items() if wanted_stock[name] + more > stock.get(name, 0)}
        if wanted_money[order.customer] + order.total_cents > balances.get(order.customer, 0):
            scarce.add("NO_FUNDS")
        told = finals.get(order.name, {"outcome": "nothing", "code": ""})
        allowed = impossible.get(order.name, set()) | scarce
        refused = told["outcome"] == "ABORTED" and told["code"] in allowed
        accepted = told["outcome"] == "COMMITTED" and order.name not in impossible
        expected = f"refused with one of {sorted(allowed)}" if order.name in impossible else "committed"
        row.expect(refused or accepted, f"{order.name}: {told['outcome']} {told['code']}, expected: {expected}")
    return row


def _why_impossible(order: Order, stock: dict[str, int], balances: dict[str, int]) -> set[str]:
    """Why an order cannot succeed whatever else happens; empty when it can."""
    codes: set[str] = set()
    for product, quantity in order.quantities().items():
        if product not in stock:
            codes.add("UNKNOWN_PRODUCT")
        elif quantity > stock[product]:
            codes.add("NO_STOCK")
    if order.customer not in balances:
        codes.add("UNKNOWN_CUSTOMER")
    elif order.total_cents > balances[order.customer]:
        codes.add("NO_FUNDS")
    return codes


def _nothing_left(facts: Facts) -> Row:
    row = Row("nothing is in doubt, locked or unacknowledged")
    coordinator = facts.coordinator
    for name in coordinator.decided:
        row.expect(name in coordinator.ended, f"the coordinator waits for acknowledgements of {name}")
    for name in coordinator.keys_open:
        row.expect(False, f"the coordinator does not know what came of {name}")
    for what in coordinator.heuristic:
        row.expect(False, f"heuristic: {what}")
    for place, log in facts.participants.items():
        row.looked_at += len(log.finished)
        row.wrong += [f"{name} is in doubt at {place}" for name in sorted(log.in_doubt)]
        row.wrong += [f"{name} holds locks at {place}" for name in sorted(log.locked)]
        row.wrong += [f"{name} is parked at {place}" for name in log.parked]
    return row


# ---- reading


def read(directory: Path) -> Facts:
    """Read the files of a run that is over."""
    with tempfile.TemporaryDirectory() as scratch:
        databases = {name: open_copy(directory / name / f"{name}.db", Path(scratch)) for name in SERVICES}
        log = open_copy(directory / "coordinator" / "coordinator.db", Path(scratch))
        orders, inventory, payments = (databases[name] for name in SERVICES)
        try:
            return Facts(
                orders=orders.execute("SELECT order_id, customer, total_cents FROM orders").fetchall(),
                order_lines=orders.execute("SELECT order_id, product, quantity, unit_price_cents FROM order_lines").fetchall(),
                stock=dict(inventory.execute("SELECT product, quantity FROM stock")),
                shipments=inventory.execute("SELECT order_id, product, quantity FROM shipments").fetchall(),
                balances=dict(payments.execute("SELECT customer, balance_cents FROM accounts")),
                charges=payments.execute("SELECT order_id, customer, amount_cents FROM charges").fetchall(),
                told=_told(directory / "told.csv"),
                coordinator=coordinator_log(log),
                participants={name: participant_log(database) for name, database in databases.items()},
            )
        finally:
            for connection in (*databases.values(), log):
                connection.close()


def open_copy(path: Path, scratch: Path) -> sqlite3.Connection:
    """A copy with all that belongs to it: looking must not change what is looked at."""
    copy = scratch / path.name
    for suffix in ("", "-wal", "-journal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copyfile(part, copy.with_name(copy.name + suffix))
    connection = sqlite3.connect(copy)
    damage = connection.execute("PRAGMA integrity_check").fetchall()
    if damage != [("ok",)]:
        raise SystemExit(f"check: {path}: {damage[:5]}")
    return connection


def _told(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def coordinator_log(log: sqlite3.Connection) -> CoordinatorLog:
    """The decisions, and what came of them."""
    found = CoordinatorLog()
    records = log.execute("SELECT seq, body FROM troth_records ORDER BY seq").fetchall()
    for _, body in records:
        _take_coordinator_record(found, record_pb2.CoordinatorRecord.FromString(body))
    found.from_the_beginning = bool(records) and records[0][0] == 1
    return found


def _take_coordinator_record(found: CoordinatorLog, record: record_pb2.CoordinatorRecord) -> None:
    match record.WhichOneof("kind"):
        case "decided":
            found.decided[record.decided.transaction_id] = set(record.decided.participants)
        case "ended":
            found.ended[record.ended.transaction_id] = record.ended.outcome
            found.keys_open.discard(record.ended.transaction_id)
        case "key_opened":
            found.keys_open.add(record.key_opened.transaction_id)
        case "key_closed":
            found.keys_open.discard(record.key_closed.transaction_id)
        case "heuristic":
            found.heuristic.append(f"{record.heuristic.transaction_id} at {record.heuristic.participant}")


def participant_log(database: sqlite3.Connection) -> ParticipantLog:
    """The branches, of which a transaction rolled back and done again may have several records: the last one holds."""
    found = ParticipantLog()
    branches: dict[str, set[str]] = defaultdict(set)
    for (body,) in database.execute("SELECT body FROM troth_records ORDER BY seq"):
        record = record_pb2.ParticipantRecord.FromString(body)
        kind = record.WhichOneof("kind") or ""
        branch = getattr(record, kind) if kind.startswith("branch_") else None
        if branch is None:
            continue
        branches[branch.transaction_id].add(kind)
        if kind == "branch_finished":
            found.finished[branch.transaction_id] = branch.outcome
        elif kind == "branch_parked":
            found.parked.append(branch.transaction_id)
    found.active = {name for name, kinds in branches.items() if "branch_active" in kinds}
    found.prepared = {name for name, kinds in branches.items() if "branch_prepared" in kinds}
    return found


def main() -> int:
    """Check the files of an earlier run; returns the exit status."""
    if len(sys.argv) not in (2, 3):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    orders, _ = read_orders(Path(sys.argv[2]) if len(sys.argv) == 3 else SAMPLES / "orders.csv")
    report = check(Path(sys.argv[1]), orders)
    for row in report.rows:
        sys.stdout.write(f"{row.title}: {row.looked_at} looked at, {len(row.wrong)} wrong\n")
        sys.stdout.writelines(f"    {wrong}\n" for wrong in row.wrong)
    return 1 if report.violations or report.in_doubt else 0


if __name__ == "__main__":
    sys.exit(main())
