"""The demo, as a newcomer runs it; and whether its checker would notice."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from catalog import read_orders
from check import SAMPLES, check
from processes import ROOT

LAST_LINE = re.compile(
    r"demo: ok orders=(?P<orders>\d+) committed=(?P<committed>\d+) aborted=(?P<aborted>\d+) kills=(?P<kills>\d+) "
    r"in_doubt=0 violations=0"
)


def run_demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SAMPLES / "demo.py", *arguments]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small run, in peace."""
    directory = tmp_path_factory.mktemp("run")
    rows = (SAMPLES / "orders.csv").read_text().splitlines(keepends=True)
    orders = directory / "orders.csv"
    orders.write_text("".join(rows[:120]) + "o9,c001,p001,many,1\n" + "o9998,c001,p001,1,100\n")
    done = run_demo("--orders", orders, "--no-kills", "--directory", directory / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{orders}:121: 'many' is no whole number" in done.stderr
    assert LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    return directory


def test_a_thousand_orders_survive_everything_being_killed(tmp_path: Path) -> None:
    done = run_demo("--directory", tmp_path / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    match = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert match is not None, done.stdout
    assert int(match["orders"]) == int(match["committed"]) + int(match["aborted"]) >= 1000
    assert int(match["aborted"]) == 60
    assert int(match["kills"]) >= 5
    assert "not killed" not in done.stderr


@pytest.mark.parametrize("text", [None, "", "nonsense\n", "order,customer,product,quantity,unit_price_cents\n"])
def test_a_file_without_orders_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "orders.csv"
    if text is not None:
        file.write_text(text)
    done = run_demo("--orders", file, "--directory", tmp_path / "demo")
    assert done.returncode == 2
    assert done.stderr.startswith(f"demo: {file}: ")
    assert "Traceback" not in done.stderr


def execute(database: str, statement: str) -> Callable[[Path], None]:
    def tamper(directory: Path) -> None:
        connection = sqlite3.connect(directory / database)
        connection.execute(statement)
        connection.commit()
        connection.close()

    return tamper


def lie_to_a_customer(directory: Path) -> None:
    told = directory / "told.csv"
    told.write_text(told.read_text().replace("COMMITTED,,1", "ABORTED,NO_FUNDS,1", 1))


TAMPERED = {
    "an effect is missing": execute("inventory/inventory.db", "DELETE FROM shipments WHERE id = (SELECT min(id) FROM shipments)"),
    "an effect is there twice": execute(
        "payments/payments.db",
        "INSERT INTO charges (order_id, customer, amount_cents) SELECT order_id, customer, amount_cents FROM charges LIMIT 1",
    ),
    "an order is in one place only": execute(
        "orders/orders.db", "INSERT INTO orders (order_id, customer, total_cents) VALUES ('o0001', 'c001', 1)"
    ),
    "money came from nowhere": execute(
        "payments/payments.db", "UPDATE accounts SET balance_cents = balance_cents + 1 WHERE customer = 'c007'"
    ),
    "goods are gone": execute("inventory/inventory.db", "UPDATE stock SET quantity = quantity - 1 WHERE product = 'p007'"),
    "a customer was told otherwise": lie_to_a_customer,
    "a decision is unacknowledged": execute(
        "coordinator/coordinator.db", "DELETE FROM troth_records WHERE seq = (SELECT max(seq) FROM troth_records)"
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_checker_notices(what: str, finished_run: Path, tmp_path: Path) -> None:
    orders, _ = read_orders(finished_run / "orders.csv")
    directory = tmp_path / "demo"
    shutil.copytree(finished_run / "demo", directory)
    assert check(directory, orders).violations == 0
    TAMPERED[what](directory)
    assert check(directory, orders).violations > 0
