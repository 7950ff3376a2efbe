"""What a command does not need it does not import. Modules are counted, not milliseconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coordinator.cli.main import COMMANDS

HEAVY = frozenset({
    "apsw", "asyncpg", "cryptography", "grpc", "jinja2", "jwt", "opentelemetry", "prometheus_client", "psycopg", "pymysql", "redis",
    "rich", "sqlalchemy", "sqlite3", "starlette", "structlog",
})  # fmt: skip
"""What some command needs, and takes its time to be imported."""

ASK = """
import sys
from coordinator.cli.main import run
code = run(sys.argv[1:])
print(code, *{name.partition(".")[0] for name in sys.modules}, *sys.modules, file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """The modules, and what they are parts of, that a command has imported at its end."""
    done = subprocess.run([sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, check=True)
    code, *names = done.stderr.split()
    assert code == "0" and done.stdout
    return set(names)


@pytest.mark.parametrize(
    "words", ["txn list", "txn watch", "participants list", "status", "cell", "review list", "token add", "pki init"]
)
def test_help_of_a_command_imports_nothing_heavy(words: str) -> None:
    assert imported(*words.split(), "--help") & HEAVY == set()


def test_the_version_imports_no_command() -> None:
    names = imported("--version")
    assert names & HEAVY == set()
    assert {name for name in names if name.startswith(("coordinator.", "troth."))} == {
        "coordinator.cli", *(f"coordinator.cli.{name}" for name in ("main", "command", "failure", "render")),
        "troth.errors", "troth.logs", "troth.packages",
    }  # fmt: skip


def test_a_command_imports_no_other() -> None:
    modules = {command.callback.__module__ for command in COMMANDS.values() if command.callback is not None}
    names = imported("txn", "list", "--help")
    assert names & modules == {"coordinator.cli.txn"} and len(modules) > 15


def test_a_table_in_a_pipe_needs_no_rich_and_a_check_of_settings_no_web_server() -> None:
    names = imported("config", "show")
    assert names & {"rich", "starlette", "jinja2", "psycopg", "cryptography", "prometheus_client", "opentelemetry"} == set()


def test_a_mistyped_command_is_answered_with_those_that_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "coordinator.cli", "particpants"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "participants" in done.stderr
