"""`troth pki`: a private certificate authority, for teams without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option

if TYPE_CHECKING:
    from coordinator.pki.authority import Shown

Function = TypeVar("Function", bound=Callable[..., Any])

EXAMPLES = """
troth pki init                                                       # once, on a machine that is kept closed
troth pki issue coordinator --name troth.internal --name 10.0.0.7    # what clients dial
troth pki issue payments --name spiffe://example.org/payments        # a participant
troth pki show var/pki/*.pem                                         # whose, and until when
troth pki renew payments                                             # the same names, a new key
"""


@click.group(cls=Group, examples=EXAMPLES)
def pki() -> None:
    """Make and renew certificates. Needs the extra `pki`."""


def _directory(function: Function) -> Function:
    return click.option(
        "--directory", type=click.Path(file_okay=False, path_type=Path), default=Path("var/pki"), show_default=True,
        help="Where the authority and what it issues are kept.",
    )(function)  # fmt: skip


def _days(function: Function) -> Function:
    return click.option("--days", type=int, default=30, show_default=True, help="How long it is valid; at most 398.")(function)


@pki.command(examples="troth pki init --directory /etc/troth/pki")
@_directory
@click.option("--organisation", default="Troth private authority", show_default=True, help="What the authority is called.")
def init(directory: Path, organisation: str) -> None:
    """Make an authority: a key that signs, valid for ten years. An authority that is there is never replaced."""
    from coordinator.pki import authority

    made = authority.init(directory, organisation)
    render.say(f"made {made}: give it to every process as its authorities; {made.with_suffix('.key')} stays here")


@pki.command(examples="troth pki issue payments --name spiffe://example.org/payments --days 7")
@click.argument("file")
@click.option("--name", "names", multiple=True, required=True, help="SPIFFE id, DNS name or IP address; several times.")
@_days
@_directory
def issue(file: str, names: tuple[str, ...], days: int, directory: Path) -> None:
    """Issue FILE.pem and FILE.key for these names. Processes that have the files take the new ones by themselves."""
    from coordinator.pki import authority

    _tell(authority.show(authority.issue(directory, file, names, days)))


@pki.command(examples="troth pki renew payments --days 7")
@click.argument("file")
@_days
@_directory
def renew(file: str, days: int, directory: Path) -> None:
    """Issue FILE.pem and FILE.key again, for the same names."""
    from coordinator.pki import authority

    _tell(authority.show(authority.renew(directory, file, days)))


@pki.command(examples="troth pki show var/pki/payments.pem --json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def show(files: Sequence[Path], as_json: bool) -> None:
    """Show whose certificates these are, and until when."""
    from coordinator.pki import authority

    found = [authority.show(file) for file in files]
    if as_json:
        render.write_json({"certificates": [_document(one) for one in found]})
        return
    rows = ((one.file, ", ".join(one.names) or "the authority", f"{one.not_after:%Y-%m-%d %H:%M} UTC", _left(one)) for one in found)
    render.write_table(("FILE", "NAMES", "VALID UNTIL", "LEFT"), rows)


def _tell(one: Shown) -> None:
    render.say(f"made {one.file} for {', '.join(one.names)}, valid until {one.not_after:%Y-%m-%d %H:%M} UTC")


def _left(one: Shown) -> str:
    return f"{one.days_left:.0f} days" if one.days_left > 0 else "expired"


def _document(one: Shown) -> dict[str, Any]:
    return {
        "file": one.file, "names": list(one.names), "authority": one.is_authority, "valid_until": one.not_after.isoformat(),
        "serial": one.serial, "days_left": round(one.days_left, 2),
    }  # fmt: skip
