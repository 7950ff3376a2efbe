"""What is installed, what it needs, and what is said when something else has its place."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sources import ROOT

import participant_sdk
from troth import packages

MODULES = {
    "apsw": ["apsw"], "psycopg": ["psycopg"], "psycopg-pool": ["psycopg_pool"], "asyncpg": ["asyncpg"],
    "sqlalchemy": ["sqlalchemy"],
    "aiomysql": ["aiomysql"], "PyMySQL": ["pymysql"],
    "click": ["click"], "rich": ["rich"], "structlog": ["structlog"],
    "grpcio-health-checking": ["grpc_health"], "grpcio-reflection": ["grpc_reflection"],
    "grpcio-status": ["grpc_status", "google.rpc"], "cryptography": ["cryptography"], "pyjwt": ["jwt"],
    "prometheus-client": ["prometheus_client"], "starlette": ["starlette"], "jinja2": ["jinja2"], "uvicorn": ["uvicorn"],
    "opentelemetry-api": ["opentelemetry"], "opentelemetry-sdk": ["opentelemetry.sdk"],
    "opentelemetry-exporter-otlp-proto-http": ["opentelemetry.exporter"],
}  # fmt: skip
"""What each distribution of an extra is imported as."""


def run(code: str, directory: Path, **hidden: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose path begins with a directory, as PYTHONPATH=. has it."""
    path = f"{directory}:{ROOT}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env={"PYTHONPATH": path, "PATH": "/usr/bin"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def hide(directory: Path, module: str) -> None:
    """Let the import of a module fail as if it were not installed."""
    text = f"raise ModuleNotFoundError(\"No module named '{module}'\", name={module!r})\n"
    (directory / f"{module}.py").write_text(text)


def test_every_module_of_an_extra_is_known_with_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    known = {}
    told = (
        "sqlite", "postgres", "asyncpg", "mariadb", "sqlalchemy", "coordinator", "pki", "oidc", "metrics", "otlp", "otel",
        "console",
    )  # fmt: skip
    for extra in told:
        for requirement in extras[extra]:
            name = requirement.split(">")[0].split("[")[0]
            known.update(dict.fromkeys(MODULES[name], extra))
    assert known == packages.EXTRAS


def test_a_prompt_completes_what_the_sdk_has_before_it_is_used() -> None:
    assert set(participant_sdk.__all__) <= set(dir(participant_sdk))


def test_all_packages_are_typed() -> None:
    for package in ("troth", "coordinator", "participant_sdk"):
        assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize(
    ("module", "command", "is_a"),
    [
        ("click", "--help", ""), ("structlog", "serve --help", "CONFIG: "), ("grpc_health", "serve", "CONFIG: "),
        ("rich", "config show", "CONFIG: "),
    ],
)  # fmt: skip
def test_a_command_without_its_extra_says_which(module: str, command: str, is_a: str, tmp_path: Path) -> None:
    hide(tmp_path, module)
    terminal = "import io, sys; sys.stdout = type('Terminal', (io.TextIOWrapper,), {'isatty': lambda _: True})(sys.stdout.buffer)"
    done = run(f"{terminal}; sys.argv[1:] = {command.split()}; from troth.entry import main; main()", tmp_path)
    assert done.returncode == 2
    what = f"the module {module!r} is missing; it comes with the extra 'coordinator': pip install 'troth[coordinator]'"
    assert done.stderr == f"troth: {is_a}{what}\n"


def test_the_list_of_commands_needs_no_extra_of_any_of_them(tmp_path: Path) -> None:
    for module in ("structlog", "grpc_health", "psycopg", "cryptography"):
        hide(tmp_path, module)
    done = run("import sys; sys.argv[1:] = ['--help']; from troth.entry import main; main()", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "Run the coordinator until SIGTERM or SIGINT." in done.stdout


def test_a_resource_without_its_extra_says_which(tmp_path: Path) -> None:
    hide(tmp_path, "apsw")
    done = run("from participant_sdk import Participant, LogResource, SqliteResource", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith("the module 'apsw' is missing; it comes with the extra 'sqlite': pip install 'troth[sqlite]'")


def test_what_is_missing_beside_our_extras_is_not_explained(tmp_path: Path) -> None:
    assert packages.what_is_missing(ModuleNotFoundError("x", name="clickhouse")) == ""
    hide(tmp_path, "google")
    done = run("import sys; sys.argv[1:] = ['status']; from troth.entry import main; main()", tmp_path)
    assert done.returncode == 1 and "No module named 'google'" in done.stderr


@pytest.mark.parametrize("kind", ["package", "namespace"])
def test_the_command_runs_beside_a_folder_of_the_same_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "coordinator").mkdir()
    if kind == "package":
        (tmp_path / "coordinator" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    done = run("import sys; sys.argv[1:] = ['--version']; from troth.entry import main; main()", tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("troth, version ")


def test_a_test_beside_a_folder_of_the_same_name_is_told_who_has_it(tmp_path: Path) -> None:
    (tmp_path / "coordinator").mkdir()
    (tmp_path / "coordinator" / "__init__.py").write_text("MINE = 1\n")
    done = run("import coordinator; assert coordinator.MINE; import participant_sdk.testing.cluster", tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: coordinator.core is needed of Troth, but the package 'coordinator' that Python finds is ")
    assert str(tmp_path / "coordinator") in last and "Rename yours" in last


def test_ours_is_taken_once_and_explained_once() -> None:
    packages.take("coordinator")
    import participant_sdk.testing  # noqa: F401 - it explains, too

    packages.explain_collision("coordinator")
    assert len([finder for finder in sys.meta_path if isinstance(finder, packages.Collision)]) == 1
