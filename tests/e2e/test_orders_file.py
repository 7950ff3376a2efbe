"""Files of orders: what is malformed is told with its line number, and the rest goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalog import BadFile, Line, Order, read_customers, read_orders, read_products
from check import SAMPLES

HEADER = "order,customer,product,quantity,unit_price_cents\n"
GOOD = "o1,c001,p001,2,100\n"


def written(path: Path, text: str | bytes) -> Path:
    file = path / "orders.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_lines_of_one_order_belong_together_wherever_they_stand(tmp_path: Path) -> None:
    file = written(tmp_path, HEADER + GOOD + "o2,c002,p001,1,100\n\no1,c001,p002,1,250\n")
    orders, bad = read_orders(file)
    assert not bad
    assert orders[0] == Order("o1", "c001", [Line("p001", 2, 100), Line("p002", 1, 250)])
    assert orders[0].total_cents == 450
    assert [order.name for order in orders] == ["o1", "o2"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"o2,c001,p001,2\n", "4 columns"),
        (b"o2,c001,p001,2,100,7\n", "6 columns"),
        (b"o2,c001,p001,two,100\n", "'two' is no whole number"),
        (b"o2,c001,p001,0,100\n", "'0' is no whole number from 1"),
        (b"o2,c001,p001,-1,100\n", "'-1' is no whole number"),
        (b"o2,c001,p001,1,99999999999999999999\n", "no whole number"),
        ("o2,c001,p001,\N{ARABIC-INDIC DIGIT THREE},1\n".encode(), "no whole number"),
        (b"o2,c001,,1,100\n", "'' is no name of a product"),
        (b"o2,,p001,1,100\n", "'' is no name of a customer"),
        (b",c001,p001,1,100\n", "'' is no name of an order"),
        (b"o1,c002,p001,1,100\n", "the order began with c001"),
        (b'"o2,c001,p001,1,100\n', "not CSV"),
        (b"o2,c001,p\xff,1,100\n", "is no name of a product"),
        (b"o2,c001,p\x00,1,100\n", "is no name of a product"),
        (b"nonsense\n", "1 columns"),
        (b"o" * 61 + b",c001,p001,1,100\n", "is no name of an order"),
    ],
)
def test_a_malformed_row_is_told_with_its_line_and_the_rest_goes_on(tmp_path: Path, row: bytes, why: str) -> None:
    file = written(tmp_path, HEADER.encode() + GOOD.encode() + row + b"o3,c003,p003,1,100\n")
    orders, bad = read_orders(file)
    assert [(one.line_number, why in one.why) for one in bad] == [(3, True)], bad
    assert "o3" in [order.name for order in orders]


def test_an_order_with_a_malformed_row_is_left_out_whole(tmp_path: Path) -> None:
    orders, bad = read_orders(written(tmp_path, HEADER + GOOD + "o1,c001,p002,x,1\n" + "o1,c001,p003,1,1\n"))
    assert orders == []
    assert "order o1 is left out" in bad[0].why


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", GOOD, "\n" + HEADER])
def test_a_file_without_the_header_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadFile, match="the first line must be order,customer"):
        read_orders(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file"):
        read_orders(tmp_path / "nowhere.csv")
    with pytest.raises(BadFile, match="Is a directory"):
        read_orders(tmp_path)


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    text = "\N{ZERO WIDTH NO-BREAK SPACE}" + (HEADER + '"o1","c001","p001","2","100"\n').replace("\n", "\r\n")
    orders, bad = read_orders(written(tmp_path, text))
    assert (len(orders), bad) == (1, [])


def test_the_samples_are_what_they_should_be() -> None:
    orders, bad = read_orders(SAMPLES / "orders.csv")
    assert not bad
    assert len(orders) >= 1000
    assert len(read_products(SAMPLES / "products.csv")) == 100
    assert len(read_customers(SAMPLES / "customers.csv")) == 200
    assert any(len(order.lines) > 2 for order in orders)
