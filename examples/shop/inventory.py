"""Inventory keeps the stock, in a SQLite file of its own."""

from __future__ import annotations

import shop_pb2
import shop_pb2_grpc
from catalog import read_products
from service import COORDINATOR, DIRECTORY, SAMPLES, TLS, run

from participant_sdk import Database, Participant, Refuse, SqliteResource

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
    product  TEXT NOT NULL PRIMARY KEY,
    quantity INTEGER NOT NULL CHECK (quantity >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS shipments (
    id       INTEGER NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    product  TEXT NOT NULL,
    quantity INTEGER NOT NULL
) STRICT;
"""

warehouse = Participant(
    "inventory",
    resource=SqliteResource(DIRECTORY / "inventory.db", schema=SCHEMA),
    data_directory=DIRECTORY,
    coordinator=COORDINATOR,
    tls=TLS,
)


@warehouse.operation(locks=lambda product: [f"product/{product}"])
def take(db: Database, *, order: str, product: str, quantity: int) -> int:
    """Take goods from the stock; returns what is left."""
    stock = db.one("SELECT quantity FROM stock WHERE product = ?", (product,))
    if stock is None:
        raise Refuse("UNKNOWN_PRODUCT", f"there is no product {product}")
    left: int = stock[0] - quantity
    if left < 0:
        raise Refuse("NO_STOCK", f"{stock[0]} of {product} are left, and {order} asks for {quantity}")
    db.execute("UPDATE stock SET quantity = ? WHERE product = ?", (left, product))
    db.execute("INSERT INTO shipments (order_id, product, quantity) VALUES (?, ?, ?)", (order, product, quantity))
    return left


class Inventory(shop_pb2_grpc.InventoryServicer):
    """The service's own API, for callers inside an interactive transaction."""

    async def Take(self, request: shop_pb2.TakeRequest, context: object) -> shop_pb2.TakeResponse:
        """See shop.proto."""
        left = await warehouse.branch().run(take, order=request.order, product=request.product, quantity=request.quantity)
        return shop_pb2.TakeResponse(left=left)


def fill_shelves(db: Database) -> None:
    """Put the stock of the samples on the shelves, once."""
    if db.one("SELECT 1 FROM stock LIMIT 1") is None:
        for product, quantity in read_products(SAMPLES / "products.csv").items():
            db.execute("INSERT INTO stock VALUES (?, ?)", (product, quantity))


if __name__ == "__main__":
    run(warehouse, lambda server: shop_pb2_grpc.add_InventoryServicer_to_server(Inventory(), server), fill_shelves)
