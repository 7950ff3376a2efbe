"""What a command does not need it does not import. Modules are counted, not milliseconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from coordinator.cli.command import Commands
from coordinator.cli.main import COMMANDS
from coordinator.cli.participants import ELSEWHERE

HEAVY = frozenset({
    "apsw", "asyncpg", "cryptography", "grpc", "jinja2", "jwt", "opentelemetry", "prometheus_client", "psycopg", "pymysql", "redis",
    "rich", "sqlalchemy", "sqlite3", "starlette", "structlog",
})  # fmt: skip
"""What some command needs, and takes its time to be imported."""

ASK = """
import sys
from coordinator.cli.main import run
try:
    code = run(sys.argv[1:])
except SystemExit as ended:  # so click ends when it has completed
    code = ended.code
print(code, *{name.partition(".")[0] for name in sys.modules}, *sys.modules, file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """The modules, and what they are parts of, that a command has imported at its end."""
    return told(*arguments)[1]


def told(*arguments: str, **environment: str) -> tuple[str, set[str]]:
    """What a command prints, and what it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    code, *names = done.stderr.split()
    assert code == "0" and done.stdout
    return done.stdout, set(names)


def modules_of_commands() -> set[str]:
    """Where the commands of `troth` are."""
    return {command.callback.__module__ for command in COMMANDS.values() if command.callback is not None}


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


@pytest.mark.parametrize("words", ["--help", "participants --help", "version"])
def test_what_lists_commands_or_is_small_imports_nothing_heavy(words: str) -> None:
    names = imported(*words.split())
    assert names & HEAVY <= {"sqlite3"}
    assert names & modules_of_commands() <= {f"coordinator.cli.{words.split()[0]}"}


@pytest.mark.parametrize(
    "typed, offered", [("troth par", "participants"), ("troth participants rec", "reconcile"), ("troth log v", "verify")]
)
def test_a_shell_that_completes_imports_only_what_the_words_before_name(typed: str, offered: str) -> None:
    words = typed.split()
    out, names = told(_TROTH_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert out == f"plain,{offered}\n"
    assert names & modules_of_commands() == {f"coordinator.cli.{word}" for word in words[1:-1]}
    assert len(words) > 2 or names & HEAVY == set()


@pytest.mark.parametrize("commands", [COMMANDS, ELSEWHERE], ids=["troth", "troth participants"])
def test_a_list_says_of_each_command_what_it_says_of_itself(commands: Commands) -> None:
    shown = {name: (command.name, command.get_short_help_str(1_000)) for name, command in commands.listed.items()}
    assert shown == {name: (name, command.get_short_help_str(1_000)) for name, command in commands.items()}
    assert [name for name, command in commands.items() if command.hidden or command.deprecated] == []


def test_a_command_imports_no_other() -> None:
    names = imported("txn", "list", "--help")
    assert names & modules_of_commands() == {"coordinator.cli.txn"} and len(modules_of_commands()) > 15


def test_a_table_in_a_pipe_needs_no_rich_and_a_check_of_settings_no_web_server() -> None:
    names = imported("config", "show")
    assert names & {"rich", "starlette", "jinja2", "psycopg", "cryptography", "prometheus_client", "opentelemetry"} == set()


def test_a_mistyped_command_is_answered_with_those_that_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "coordinator.cli", "particpants"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "participants" in done.stderr
