"""Payments keeps the customers' money, in a SQLite file of its own."""

from __future__ import annotations

import shop_pb2
import shop_pb2_grpc
from catalog import read_customers
from service import COORDINATOR, DIRECTORY, SAMPLES, TLS, run

from participant_sdk import Database, Participant, Refuse, SqliteResource

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    customer      TEXT NOT NULL PRIMARY KEY,
    balance_cents INTEGER NOT NULL CHECK (balance_cents >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS charges (
    id           INTEGER NOT NULL PRIMARY KEY,
    order_id     TEXT NOT NULL,
    customer     TEXT NOT NULL,
    amount_cents INTEGER NOT NULL
) STRICT;
"""

bank = Participant(
    "payments",
    resource=SqliteResource(DIRECTORY / "payments.db", schema=SCHEMA),
    data_directory=DIRECTORY,
    coordinator=COORDINATOR,
    tls=TLS,
)


@bank.operation(locks=lambda customer: [f"account/{customer}"])
def charge(db: Database, *, order: str, customer: str, amount_cents: int) -> int:
    """Take money from a customer; returns what is left."""
    account = db.one("SELECT balance_cents FROM accounts WHERE customer = ?", (customer,))
    if account is None:
        raise Refuse("UNKNOWN_CUSTOMER", f"there is no customer {customer}")
    left: int = account[0] - amount_cents
    if left < 0:
        raise Refuse("NO_FUNDS", f"{customer} has {account[0]} cents, and {order} costs {amount_cents}")
    db.execute("UPDATE accounts SET balance_cents = ? WHERE customer = ?", (left, customer))
    db.execute("INSERT INTO charges (order_id, customer, amount_cents) VALUES (?, ?, ?)", (order, customer, amount_cents))
    return left


class Payments(shop_pb2_grpc.PaymentsServicer):
    """The service's own API, for callers inside an interactive transaction."""

    async def Charge(self, request: shop_pb2.ChargeRequest, context: object) -> shop_pb2.ChargeResponse:
        """See shop.proto."""
        left = await bank.branch().run(charge, order=request.order, customer=request.customer, amount_cents=request.amount_cents)
        return shop_pb2.ChargeResponse(balance_cents=left)


def open_accounts(db: Database) -> None:
    """Give every customer of the samples their opening balance, once."""
    if db.one("SELECT 1 FROM accounts LIMIT 1") is None:
        for customer, balance_cents in read_customers(SAMPLES / "customers.csv").items():
            db.execute("INSERT INTO accounts VALUES (?, ?)", (customer, balance_cents))


if __name__ == "__main__":
    run(bank, lambda server: shop_pb2_grpc.add_PaymentsServicer_to_server(Payments(), server), open_accounts)
