"""Asking before something is forced."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from coordinator.cli import render
from coordinator.cli.failure import REFUSED, USAGE, Failure


def confirm(what: str, consequences: Iterable[str], yes: bool) -> None:
    """Tell what will happen, and go on only with a yes; raises `Failure` otherwise."""
    render.tell(what)
    for line in consequences:
        render.tell(f"  - {line}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(USAGE, "USAGE", "nobody can be asked here", "Add --yes if you mean it.")
    if not click.confirm("Go on?", err=True):
        raise Failure(REFUSED, "NOT_CONFIRMED", "nothing was done")
