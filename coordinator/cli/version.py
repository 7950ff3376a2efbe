"""`troth version`."""

from __future__ import annotations

import platform
import sqlite3
from importlib import metadata

import click

from coordinator.cli import render
from coordinator.cli.command import Command, json_option
from troth import __version__
from troth.features import PROTOCOL_VERSION


@click.command(cls=Command, examples="troth version\ntroth version --json")
@json_option
def version(as_json: bool) -> None:
    """Tell the versions of what runs here."""
    versions = {
        "troth": __version__,
        "protocol": str(PROTOCOL_VERSION),
        "python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "protobuf": metadata.version("protobuf"),
        "sqlite": sqlite3.sqlite_version,
    }
    if as_json:
        render.write_json(versions)
    else:
        render.write_facts(versions.items())
