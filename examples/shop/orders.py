"""Orders keeps what customers ordered, in a SQLite file of its own."""

from __future__ import annotations

import shop_pb2
import shop_pb2_grpc
from service import COORDINATOR, DIRECTORY, TLS, run

from participant_sdk import Database, Participant, SqliteResource

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id          INTEGER NOT NULL PRIMARY KEY,
    order_id    TEXT NOT NULL,
    customer    TEXT NOT NULL,
    total_cents INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS order_lines (
    id               INTEGER NOT NULL PRIMARY KEY,
    order_id         TEXT NOT NULL,
    product          TEXT NOT NULL,
    quantity         INTEGER NOT NULL,
    unit_price_cents INTEGER NOT NULL
) STRICT;
"""

book = Participant(
    "orders",
    resource=SqliteResource(DIRECTORY / "orders.db", schema=SCHEMA),
    data_directory=DIRECTORY,
    coordinator=COORDINATOR,
    tls=TLS,
)


@book.operation(locks=lambda order: [f"order/{order}"])
def place(db: Database, *, order: str, customer: str, lines: list[dict[str, int | str]]) -> int:
    """Record an order; returns what it costs, in cents."""
    rows = [(order, str(line["product"]), int(line["quantity"]), int(line["unit_price_cents"])) for line in lines]
    total_cents = sum(quantity * price for _, _, quantity, price in rows)
    db.execute("INSERT INTO orders (order_id, customer, total_cents) VALUES (?, ?, ?)", (order, customer, total_cents))
    for row in rows:
        db.execute("INSERT INTO order_lines (order_id, product, quantity, unit_price_cents) VALUES (?, ?, ?, ?)", row)
    return total_cents


class Orders(shop_pb2_grpc.OrdersServicer):
    """The service's own API, for callers inside an interactive transaction."""

    async def Place(self, request: shop_pb2.PlaceRequest, context: object) -> shop_pb2.PlaceResponse:
        """See shop.proto."""
        lines = [
            {"product": line.product, "quantity": line.quantity, "unit_price_cents": line.unit_price_cents}
            for line in request.lines
        ]
        total_cents = await book.branch().run(place, order=request.order, customer=request.customer, lines=lines)
        return shop_pb2.PlaceResponse(total_cents=total_cents)


if __name__ == "__main__":
    run(book, lambda server: shop_pb2_grpc.add_OrdersServicer_to_server(Orders(), server), lambda db: None)
