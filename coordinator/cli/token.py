"""`troth token`: bearer tokens for people and for clients without a certificate. The file has hashes; a token is shown once."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option
from coordinator.identity import tokens
from troth.errors import ConfigError

EXAMPLES = """
troth token add ada --days 90 > ada.token            # once; give her the file
troth token list
troth token remove ada                               # taken back within a second
"""


@click.group(cls=Group, examples=EXAMPLES)
def token() -> None:
    """Make, list and take back bearer tokens, in a file that the setting `tokens` names."""


def _file(function: Any) -> Any:
    return click.option(
        "--file", type=click.Path(dir_okay=False, path_type=Path), default=Path("var/tokens.toml"), show_default=True,
        envvar="TROTH_TOKENS", help="The file of tokens. Default: $TROTH_TOKENS, else",
    )(function)  # fmt: skip


@token.command(examples="troth token add ada --days 90 > ada.token")
@click.argument("name")
@click.option("--days", type=click.FloatRange(min=0.001, max=3_650), default=90.0, show_default=True, help="How long it is valid.")
@_file
def add(name: str, days: float, file: Path) -> None:
    """Make a token for NAME, and write it to stdout: nobody can show it again. Its identity is token:NAME."""
    if tokens.NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is no name", hint="Use letters, digits, '.', '_', '-' and '@'.")
    before = _read(file)
    drawn, until = tokens.draw(), datetime.now(UTC) + timedelta(days=days)
    _write(file, before + tokens.entry_text(name, tokens.hash_of(drawn), until))
    render.tell(f"made a token for token:{name}, valid until {until:%Y-%m-%d %H:%M} UTC; {file} has its hash")
    render.say(drawn)


@token.command(name="list", examples="troth token list --json")
@_file
@json_option
def show(file: Path, as_json: bool) -> None:
    """List whose tokens there are, and until when."""
    found = tokens.parse(_read(file).encode())
    if as_json:
        render.write_json({"tokens": [
            {"identity": f"token:{one.name}", "until": one.until.isoformat() if one.until else None, "sha256": sha256}
            for sha256, one in found.items()
        ]})  # fmt: skip
        return
    rows = ((f"token:{one.name}", _shown(one.until), sha256[:8]) for sha256, one in found.items())
    render.write_table(("IDENTITY", "VALID UNTIL", "SHA256"), rows)


@token.command(examples="troth token remove ada")
@click.argument("name")
@_file
def remove(name: str, file: Path) -> None:
    """Take back every token of NAME."""
    found = tokens.parse(_read(file).encode())
    kept = [(sha256, one) for sha256, one in found.items() if one.name != name]
    if len(kept) == len(found):
        raise ConfigError(f"{file} has no token of {name!r}", hint="`troth token list` shows whose there are.")
    _write(file, "".join(tokens.entry_text(one.name, sha256, one.until) for sha256, one in kept))
    render.say(f"took back {len(found) - len(kept)} of token:{name}")


def _shown(until: datetime | None) -> str:
    return f"{until:%Y-%m-%d %H:%M} UTC" if until else "-"


def _read(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8")
    return ""


def _write(file: Path, text: str) -> None:
    """All at once: the coordinator may look at any moment."""
    tokens.parse(text.encode())
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(new, file)
