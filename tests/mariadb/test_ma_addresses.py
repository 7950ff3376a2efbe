"""Addresses of databases, and what the drivers make of them and of errors."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from ma_bench import Database

from tests.stopped import silent
from troth.errors import ConfigError
from troth.mariadb import address as addresses
from troth.mariadb import drivers, errors
from troth.mariadb.address import parse
from troth.mariadb.connection import Connection


def test_an_address_has_a_driver_a_place_and_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    address = parse("mariadb+asyncmy://pay%40ments:s%3Acret@db.example:3307/bank")
    assert (address.driver, address.host, address.port, address.user) == ("asyncmy", "db.example", 3307, "pay@ments")
    assert address.arguments()["password"] == "s:cret" and "s:cret" not in repr(address) + address.place
    assert (parse("mysql://db/bank").driver, parse("mysql://db/bank").port) == ("aiomysql", 3306)
    monkeypatch.setenv("MYSQL_PWD", "from outside")
    arguments = parse("mysql://db/bank?unix_socket=/run/x&read_default_file=/my.cnf").arguments()
    assert (arguments["password"], arguments["unix_socket"]) == ("from outside", "/run/x")
    assert (arguments["read_default_file"], "ssl" in arguments) == ("/my.cnf", False)


def test_files_of_tls_are_read_when_it_connects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="files of TLS"):
        parse(f"mysql://db/bank?ssl_ca={tmp_path}/none").arguments()
    with pytest.raises(ConfigError, match="files of TLS"):
        parse(f"mysql://db/bank?ssl_cert={tmp_path}/none").arguments()
    authorities = ssl.get_default_verify_paths().openssl_cafile
    if Path(authorities).exists():
        assert isinstance(parse(f"mysql://db/bank?ssl_ca={authorities}").arguments()["ssl"], ssl.SSLContext)


def test_a_driver_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "asyncmy", None)
    with pytest.raises(ConfigError, match="asyncmy is not installed"):
        drivers.driver_of("asyncmy")


def test_errors_are_known_by_their_number() -> None:
    for loaded in ((False, False), (True, False), (False, True)):
        assert len(errors._kinds(loaded)) == sum(loaded)
    assert (errors.number(OSError(2013, "x")), errors.number(ValueError())) == (0, 0)
    assert errors.is_lost(ConnectionResetError()) and not errors.is_lost(ValueError("x"))
    assert (errors.why(ValueError()), errors.why(RuntimeError(1205, "a\nb"))) == ("ValueError", "a b (error 1205)")


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy", "pymysql"])
async def test_a_block_that_fails_is_rolled_back(database: Database, driver: str) -> None:
    connection = await Connection.to(parse(database.dsn(driver=driver)))
    with pytest.raises(ValueError):
        async with connection.transaction():
            await connection.ask("INSERT INTO item VALUES ('a', 1)")
            raise ValueError
    assert await connection.one("SELECT * FROM item") is None
    async with connection.transaction():
        assert (await connection.ask("INSERT INTO item VALUES (%s, %s)", ("b", 2))).changed == 1
    assert database.sql("SELECT * FROM item") == [("b", 2)]
    await connection.close()
    await connection.close()
    assert connection.closed


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
async def test_to_connect_to_a_server_that_accepts_and_says_nothing_has_an_end(
    database: Database, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drivers' own limit was for the socket alone."""
    monkeypatch.setattr(addresses, "CONNECT_SECONDS", 1)
    with silent(database.server), pytest.raises(errors.kinds()) as lost:
        await Connection.to(parse(database.dsn(driver=driver)))
    assert errors.is_lost(lost.value) and "has not answered within 1 s" in errors.why(lost.value)
