"""A log in a server that takes TLS and passwords only: both come from where libpq has them, and what is wrong with them is told
with what to do, and without the password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from log_samples import batch, numbers

from coordinator.pki import authority
from tests.secured_postgres import PASSWORD, SecuredPostgres, write_passwords
from troth.errors import LogError, Reason
from troth.log.postgres import PostgresLog
from troth.log.postgres_store import init, status

SECRETS = (PASSWORD, "Troth", "spring-fever")


pytestmark = pytest.mark.usefixtures("nothing_from_outside")


async def test_a_log_is_made_written_and_claimed_again_by_tls_and_a_password_file(secured: SecuredPostgres, tmp_path: Path) -> None:
    secured.make_database("written")
    dsn = secured.secured("written", passfile=write_passwords(tmp_path / "pgpass"))
    assert list(await init(dsn, "coordinator", ("c1",))) == ["c1"]
    for before in ([], [1, 2]):
        log = PostgresLog(dsn, role="coordinator", name="c1")
        _, records = await log.open()
        assert numbers(records) == before
        await log.write(batch(1, 2), sync=True)
        await log.close()
    (one,) = await status(dsn)
    assert one.epoch == 2


Wrong = Callable[[SecuredPostgres, Path], str]


def unknown_authority(server: SecuredPostgres, directory: Path) -> str:
    """Of another authority, which calls itself the same."""
    return server.secured(sslrootcert=authority.init(directory / "pki", "The database's authority"))


def wrong_host(server: SecuredPostgres, directory: Path) -> str:
    """Reached, but not who it says that it is."""
    return server.secured(host="db.example", hostaddr="127.0.0.1")


WRONG: dict[str, tuple[Wrong, str, str]] = {
    "a wrong password": (
        lambda server, directory: server.secured(passfile=write_passwords(directory / "pgpass", "spring-fever")),
        "password authentication failed", "Correct the password",
    ),
    "no password": (lambda server, directory: server.secured(), "no password supplied", "PGPASSWORD"),
    "an unknown authority": (unknown_authority, "certificate verify failed", "sslrootcert=FILE"),
    "another host": (wrong_host, "does not match host name", "host=..."),
    "no TLS": (lambda server, directory: server.secured(sslmode="disable"), "no pg_hba.conf entry", "sslmode=verify-full"),
    "no file": (
        lambda server, directory: server.secured(sslrootcert=directory / "none.pem"), "does not exist", "correct how it is reached"
    ),
    "no such service": (lambda server, directory: "service=nowhere", "service", "correct how it is reached"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
async def test_what_keeps_a_server_from_being_reached_is_told_with_what_to_do(
    secured: SecuredPostgres, tmp_path: Path, kind: str
) -> None:
    make, words, hint = WRONG[kind]
    dsn = make(secured, tmp_path)
    with pytest.raises(LogError) as told:
        await PostgresLog(dsn, role="coordinator", name="c1").open()
    assert told.value.reason is Reason.LOG_AWAY
    assert words in told.value.message and hint in told.value.hint, told.value
    assert not any(secret in str(told.value) for secret in SECRETS)


@pytest.mark.parametrize(
    "dsn", ["host=db password=spring-fever with a blank", "postgresql://me:spring-fever%zz@db/troth", "spring-fever"]
)
async def test_what_is_no_connection_string_is_not_repeated(dsn: str) -> None:
    """libpq names the part that it does not understand."""
    with pytest.raises(LogError, match="no connection string") as told:
        await status(dsn)
    assert told.value.reason is Reason.CONFIG
    assert "fever" not in str(told.value) and "blank" not in str(told.value), told.value
    assert told.value.__suppress_context__, "nor in a traceback"
