"""A store that takes TLS and passwords only: where the password comes from, and what people are told when something is wrong."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_nodes import Node

from coordinator.pki import authority
from tests.secured_postgres import HOST, PASSWORD, ROLE, SecuredPostgres, write_passwords

WRONG_PASSWORD = "spring-fever"
Start = Callable[..., Node]


pytestmark = pytest.mark.usefixtures("nothing_from_outside")


def by_option(server: SecuredPostgres, directory: Path, environment: pytest.MonkeyPatch) -> str:
    return server.secured("by_option", passfile=write_passwords(directory / "passwords"))


def by_home(server: SecuredPostgres, directory: Path, environment: pytest.MonkeyPatch) -> str:
    write_passwords(directory / "home" / ".pgpass")
    return f"postgresql://{ROLE}@{HOST}:{server.port}/by_home?sslmode=verify-full&sslrootcert={server.authority}"


def by_environment(server: SecuredPostgres, directory: Path, environment: pytest.MonkeyPatch) -> str:
    environment.setenv("PGPASSWORD", PASSWORD)
    return server.secured("by_environment")


def by_service(server: SecuredPostgres, directory: Path, environment: pytest.MonkeyPatch) -> str:
    file = directory / "services.conf"
    file.write_text(
        f"[store]\nhost={HOST}\nport={server.port}\ndbname=by_service\nuser={ROLE}\npassword={PASSWORD}\n"
        f"sslmode=verify-full\nsslrootcert={server.authority}\n"
    )
    file.chmod(0o600)
    environment.setenv("PGSERVICEFILE", str(file))
    return "service=store"


@pytest.mark.parametrize("way", [by_option, by_home, by_environment, by_service])
async def test_a_store_is_made_checked_and_served_with_a_password_from_its_place(
    secured: SecuredPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Start, troth: Any, way: Callable[..., str]
) -> None:
    secured.make_database(way.__name__)
    dsn = way(secured, tmp_path, monkeypatch)
    assert (await troth("store", "init", "--store", dsn, "--shards", "1")).out == "made the cell c1 with one shard\n"
    one = node(dsn, "--set", "node=one")
    one.says("serving on .* epoch 1")
    ran = await troth("store", "check", "--store", dsn, "--json")
    assert [log["owner"] for log in ran.json()["logs"]] == ["one"]
    assert one.ends(signal.SIGTERM) == 0
    assert not any(PASSWORD in told for told in (one.said, ran.out, ran.err))


def a_wrong_password(server: SecuredPostgres, directory: Path) -> str:
    return server.secured(passfile=write_passwords(directory / "passwords", WRONG_PASSWORD))


def an_unknown_authority(server: SecuredPostgres, directory: Path) -> str:
    passwords = write_passwords(directory / "passwords")
    return server.secured(passfile=passwords, sslrootcert=authority.init(directory / "pki", "The database's authority"))


def another_host(server: SecuredPostgres, directory: Path) -> str:
    return server.secured(host="db.example", hostaddr=HOST, passfile=write_passwords(directory / "passwords"))


WRONG = {
    a_wrong_password: ("password authentication failed", "Correct the password"),
    an_unknown_authority: ("certificate verify failed", "sslrootcert=FILE"),
    another_host: ("does not match host name", "host=..."),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_with_the_way_to_a_store_is_told_once_and_without_secrets(
    secured: SecuredPostgres, tmp_path: Path, node: Start, troth: Any, wrong: Callable[..., str]
) -> None:
    dsn = wrong(secured, tmp_path)
    for command in ("check", "init", "upgrade"):
        ran = await troth("store", command, "--store", dsn)
        assert (ran.code, ran.out) == (3, ""), ran
        assert "LOG_AWAY: the store cannot be reached" in ran.err and all(words in ran.err for words in WRONG[wrong]), ran
    one = node(dsn)
    one.says("waiting for the store: the store cannot be reached.*{}.*{}".format(*WRONG[wrong]))
    assert one.ends(signal.SIGTERM) == 0
    told = one.said + ran.err
    assert one.said.count("waiting for the store") == 1, "not again and again"
    assert not any(never in told for never in (PASSWORD, WRONG_PASSWORD, "Traceback")), told


async def test_a_node_serves_as_soon_as_its_password_is_right_and_over_a_change_of_it(
    secured: SecuredPostgres, tmp_path: Path, node: Start, troth: Any
) -> None:
    secured.make_database("changed")
    passwords = write_passwords(tmp_path / "passwords")
    dsn = secured.secured("changed", passfile=passwords)
    assert (await troth("store", "init", "--store", dsn, "--shards", "1")).code == 0
    write_passwords(passwords, WRONG_PASSWORD)
    one = node(dsn)
    one.says("waiting for the store.*password authentication failed")
    write_passwords(passwords)
    one.says("serving on .* epoch 1")
    try:
        secured.set_password("summer")
        secured.end_sessions()
        one.says("the store does not answer.*password authentication failed.*Correct the password")
        write_passwords(passwords, "summer")
        one.says("serving on")
    finally:
        secured.set_password(PASSWORD)
    assert one.ends(signal.SIGTERM) == 0
    assert not any(never in one.said for never in (PASSWORD, WRONG_PASSWORD, "summer", "Traceback")), one.said
