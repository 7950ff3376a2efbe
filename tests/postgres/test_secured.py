"""A service whose database takes TLS and passwords only: its log and its resource reach it with what libpq finds in its places, and
a service that cannot is told why, without the password."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from pg_bench import ASYNC, LIMITS, TABLE

from coordinator.pki import authority
from participant_sdk import Participant
from participant_sdk.client.client import call
from participant_sdk.resources.contract import Broken, Unreachable
from participant_sdk.resources.postgres import Postgres, PostgresLog
from participant_sdk.resources.relational import finishing
from participant_sdk.testing.cluster import Cluster
from tests.relational import until
from tests.secured_postgres import PASSWORD, SecuredPostgres, write_passwords
from troth.errors import ConfigError, LogError, Reason
from troth.log.postgres_store import init

SERVICES = ("pay", "ship")
WRONG_PASSWORD = "spring-fever"


def service(name: str, dsn: str, cluster: Cluster) -> Participant:
    made = Participant(name, resource=Postgres(dsn, limits=LIMITS), log=PostgresLog(dsn), coordinator="memory:1")
    for known, function in ASYNC.items():
        made.operation(name=known)(function)
    made.rewire(cluster._wiring)
    return made


async def test_services_have_their_data_and_their_logs_behind_tls_and_passwords(secured: SecuredPostgres, tmp_path: Path) -> None:
    passwords = write_passwords(tmp_path / "pgpass")
    dsns = [secured.secured(name, passfile=passwords) for name in SERVICES]
    for name, dsn in zip(SERVICES, dsns, strict=True):
        secured.make_database(name)
        await init(dsn, "participant", (), branches=True)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLE)
    async with Cluster() as cluster:
        services = [service(name, dsn, cluster) for name, dsn in zip(SERVICES, dsns, strict=True)]
        try:
            for one in services:
                await one.start()
                await one.wait_connected()
            await cluster.run(*(call(name, "put", name="a", value=1) for name in SERVICES))
        finally:
            for one in services:
                await one.close()
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT name, value FROM item").fetchall() == [("a", 1)]


async def test_a_service_that_cannot_reach_its_log_says_why_and_what_to_do(secured: SecuredPostgres, tmp_path: Path) -> None:
    wrong = {
        secured.secured(passfile=write_passwords(tmp_path / "wrong", WRONG_PASSWORD)): "Correct the password",
        secured.secured(sslrootcert=authority.init(tmp_path / "pki", "The database's authority")): "sslrootcert=FILE",
        secured.secured(host="db.example", hostaddr="127.0.0.1"): "host=...",
    }
    async with Cluster() as cluster:
        for dsn, hint in wrong.items():
            one = service("pay", dsn, cluster)
            with pytest.raises(LogError, match="the store cannot be reached") as told:
                await one.start()
            await one.close()
            assert told.value.reason is Reason.LOG_AWAY and hint in told.value.hint
            assert PASSWORD not in str(told.value) and WRONG_PASSWORD not in str(told.value)


async def test_a_resource_that_cannot_reach_its_database_waits_and_says_no_password(
    secured: SecuredPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finishing, "WAIT_SECONDS", 0.3)
    passwords = write_passwords(tmp_path / "pgpass", WRONG_PASSWORD)
    resource = Postgres(secured.secured(passfile=passwords), limits=LIMITS)
    away = await resource.open()
    assert isinstance(away, Unreachable), away
    assert "password authentication failed" in caplog.text, "the pool tells people why"
    assert WRONG_PASSWORD not in away.why + caplog.text
    write_passwords(passwords)
    broken = await until(resource.open)
    assert isinstance(broken, Broken) and "troth store init --participant" in broken.why, "it is asked, and has no tables"
    await resource.close()


@pytest.mark.parametrize("database", ["host=db password=spring-fever with a blank", "postgresql://me:spring-fever%zz@db/shop"])
def test_what_is_no_connection_string_is_not_repeated(database: str) -> None:
    """libpq names the part that it does not understand."""
    with pytest.raises(ConfigError, match="no connection string") as told:
        Postgres(database)
    assert "fever" not in str(told.value) and "blank" not in str(told.value), told.value
