"""What MariaDB and MySQL say differently, and which servers are taken."""

from __future__ import annotations

import pytest

from troth.mariadb.dialect import MARIADB, MYSQL, dialect_of, too_old, wanted


@pytest.mark.parametrize(
    ("version", "relay", "old"),
    [
        ("10.4.34-MariaDB", False, True), ("10.5.1-MariaDB-log", False, False), ("10.11.19-MariaDB-0+deb12u1", True, False),
        ("10.5.9-MariaDB", True, True), ("8.0.29", False, True), ("8.0.30", False, False), ("8.4.3-3", True, False),
        ("9.7.4-2", True, False), ("5.7.44-log", False, True), ("8.0.11-TiDB-v8.5.1", False, True),
        ("8.0.mysql_aurora", False, True), ("nothing", False, True),
    ],
)  # fmt: skip
def test_a_server_is_taken_by_its_version(version: str, relay: bool, old: bool) -> None:
    assert too_old(version, relay=relay) is old


def test_what_there_must_be_is_said_of_both() -> None:
    assert wanted() == "MariaDB 10.5 or MySQL 8.0.30 or newer"
    assert wanted(relay=True) == "MariaDB 10.6 or MySQL 8.0.30 or newer"


def test_the_first_word_of_a_server_tells_which_it_is() -> None:
    """For the sake of old replicas MariaDB's has another version before its own."""
    assert dialect_of("5.5.5-10.11.19-MariaDB-0+deb12u1") is MARIADB and dialect_of("9.7.4-2") is MYSQL


def test_settings_are_in_each_ones_units() -> None:
    assert MARIADB.settings("SERIALIZABLE", 2, 0.5, 60)["max_statement_time"] == 0.5
    said = MYSQL.settings("SERIALIZABLE", 2, 0.5, 60)
    assert (said["max_execution_time"], said["wait_timeout"], said["transaction_isolation"]) == (500, 60, "SERIALIZABLE")
    assert MYSQL.settings("SERIALIZABLE", 2, 0.0001, 60)["max_execution_time"] == 1, "nought would be no limit"
