"""`troth policy`: who may do what, before it is in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coordinator.cli import render
from coordinator.cli.command import Group, json_option
from coordinator.cli.failure import OK, REFUSED
from coordinator.identity.policy import ACTIONS, BUILT_IN, NOBODY_NAME, Policy, decide, parse
from troth.errors import ConfigError
from troth.identity.tls import content_of

EXAMPLES = """
troth policy example > policy.toml                              # one to begin with
troth policy check policy.toml                                  # exit 2 with what is wrong
troth policy explain token:ada resolve payments                 # may she, and which grant says so?
troth policy explain spiffe://example.org/web begin payments/debit --policy new.toml
"""

BEGINNING = """\
# Who may do what. What nobody is given is refused. `troth policy actions` lists actions; see docs/how-to/close-it.md.
mode = "dry-run"        # everything is allowed, and what would not be is in the daemon's log; then "enforce"

[[grant]]               # a participant: its identity, and the name that it may have
to = ["spiffe://example.org/payments"]
participate = ["payments"]

[[grant]]               # a client: what it may run. `payments/*` is every operation, and interactive work
to = ["spiffe://example.org/web"]
begin = ["payments/*", "orders/place"]

[[grant]]               # people
to = ["spiffe://example.org/people/*"]
roles = ["observer"]

[[grant]]
to = ["token:ada", "oidc:grace@example.org"]
roles = ["administrator"]
"""


@click.group(cls=Group, examples=EXAMPLES)
def policy() -> None:
    """Check a policy, and explain what it decides."""


def _policy(function: Any) -> Any:
    return click.option(
        "--policy", "file", type=click.Path(dir_okay=False), default="policy.toml", envvar="TROTH_POLICY", show_default=True,
        help="The policy. Default: $TROTH_POLICY, else",
    )(function)  # fmt: skip


def _read(file: str | Path) -> Policy:
    try:
        return parse(content_of(file))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


@policy.command(examples="troth policy example > policy.toml")
def example() -> None:
    """Write a policy to begin with."""
    render.write_part(BEGINNING)


@policy.command(examples="troth policy actions")
@json_option
def actions(as_json: bool) -> None:
    """List all actions with their objects, and the roles that are built in."""
    if as_json:
        render.write_json({"actions": dict(ACTIONS), "roles": {name: dict(role) for name, role in BUILT_IN.items()}})
        return
    render.write_table(("ACTION", "WHAT IT IS, AND ITS OBJECT"), ACTIONS.items())
    render.say()
    rows = ((name, ", ".join(f"{what} {' '.join(on)}" for what, on in role.items())) for name, role in BUILT_IN.items())
    render.write_table(("ROLE", "GIVES"), rows)


@policy.command(examples="troth policy check policy.toml --json")
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
def check(file: str, as_json: bool) -> None:
    """Check a policy, and show what it gives to whom. Exit 2 with what is wrong."""
    read = _read(file)
    if as_json:
        grants = [{"to": list(one.to), "gives": {name: list(on) for name, on in one.actions.items()}} for one in read.grants]
        render.write_json({"mode": read.mode, "grants": grants})
        return
    render.tell(f"{file} is right: {len(read.grants)} grants, mode {read.mode}")
    rows = ((one.number, " ".join(one.to), name, " ".join(on)) for one in read.grants for name, on in sorted(one.actions.items()))
    render.write_table(("GRANT", "TO", "ACTION", "ON"), rows)


@policy.command(examples="troth policy explain token:ada resolve payments --policy policy.toml")
@click.argument("identity")
@click.argument("action", type=click.Choice(tuple(ACTIONS)))
@click.argument("object_name", metavar="OBJECT", default="")
@_policy
@json_option
def explain(identity: str, action: str, object_name: str, file: str, as_json: bool) -> int:
    """Tell whether IDENTITY may do ACTION to OBJECT, and which grant says so. Exit 1 when not. Without an OBJECT: to any at all."""
    name = "" if identity == NOBODY_NAME else identity
    decision = decide(_read(file), name, action, object_name)
    if as_json:
        render.write_json({"allowed": decision.allowed, "why": decision.why})
    else:
        render.say("allowed" if decision.allowed else "refused", decision.why)
    return OK if decision.allowed else REFUSED
