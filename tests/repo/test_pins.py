"""Generated code asks for a runtime at least as new as its compiler: floor and pins must agree (DESIGN, section 2)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
Version = tuple[int, ...]


def version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def requirements() -> dict[str, str]:
    """Every requirement of the project by name, with its specifier."""
    lists = [
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
        PROJECT["dependency-groups"]["dev"],
    ]
    found: dict[str, str] = {}
    for line in (line for lines in lists for line in lines):
        match = re.fullmatch(r"([A-Za-z0-9_-]+)(?:\[[^\]]*\])?\s*([^;]*)", line)
        assert match is not None, line
        found[match[1]] = match[2]
    return found


def floor(package: str) -> Version:
    match = re.search(r">=\s*([0-9.]+)", requirements()[package])
    assert match is not None, f"{package} has no floor"
    return version(match[1])


def pad(short: Version, long: Version) -> Version:
    return short + (0,) * (len(long) - len(short))


@pytest.mark.parametrize("path", sorted((ROOT / "troth" / "v1").glob("*_pb2_grpc.py")), ids=lambda path: path.name)
def test_grpc_floor_serves_the_generated_code(path: Path) -> None:
    match = re.search(r"GRPC_GENERATED_VERSION = '([0-9.]+)'", path.read_text(encoding="utf-8"))
    assert match is not None
    needed = version(match[1])
    assert pad(floor("grpcio"), needed) >= needed


@pytest.mark.parametrize("path", sorted((ROOT / "troth" / "v1").glob("*_pb2.py")), ids=lambda path: path.name)
def test_protobuf_floor_serves_the_generated_code(path: Path) -> None:
    match = re.search(r"Protobuf Python Version: ([0-9.]+)", path.read_text(encoding="utf-8"))
    assert match is not None
    needed = version(match[1])
    assert pad(floor("protobuf"), needed) >= needed


def test_compiler_is_pinned_to_the_floor() -> None:
    pin = requirements()["grpcio-tools"]
    assert pin.startswith("=="), "an unpinned compiler would raise the floor by itself"
    assert version(pin[2:])[:2] == floor("grpcio")[:2]


@pytest.mark.parametrize("package", ["grpcio-health-checking", "grpcio-reflection", "grpcio-status"])
def test_grpc_packages_share_one_floor(package: str) -> None:
    assert requirements()[package] == requirements()["grpcio"]


@pytest.mark.parametrize("package", ["grpcio", "protobuf"])
def test_runtime_has_a_ceiling(package: str) -> None:
    assert "<" in requirements()[package]


@pytest.mark.parametrize("tool", ["grpcio-tools", "mypy-protobuf", "buf-bin", "mypy", "ruff"])
def test_tools_whose_version_changes_their_verdict_are_pinned(tool: str) -> None:
    assert requirements()[tool].startswith("==")
