"""The policy: who may do what. One pure function decides, `decide(policy, identity, action, object)`.

A policy is a file:

    mode = "enforce"                                  # or "dry-run": everything is allowed, and what would not be is told

    [[grant]]
    to = ["spiffe://example.org/payments"]            # identities
    participate = ["payments"]                        # an action, and on which objects

    [[grant]]
    to = ["spiffe://example.org/web", "oidc:*@example.org"]
    begin = ["payments/*", "orders/place"]

    [[grant]]
    to = ["token:ada"]
    roles = ["operator"]

    [role.support]                                    # a role of one's own
    roles = ["observer"]
    resolve = ["payments"]

What nobody is given is refused. `*` in a name stands for any characters, and nothing else is special. Somebody who has shown
nothing is called `nobody`, and no `*` means him. A transaction belongs to who has begun it: he needs no grant to end, read or
watch it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from troth.errors import ConfigError

NOBODY_NAME = "nobody"
"""What a caller who has shown nothing is called in a policy."""
EVERYTHING = "*"
"""The object of what is about everything there is. A grant on `*` alone gives it."""

ACTIONS: Mapping[str, str] = {
    "participate": "be the participant of this name, in all of its slots",
    "begin": "have a participant work: `NAME/OPERATION` in one-shot transactions, `NAME/*` in interactive ones",
    "end": "commit or roll back what another identity has begun; the object is who has begun it",
    "read": "ask about what another identity has begun; the object is who has begun it, `*` to list and explain everything",
    "watch": "watch what another identity has begun; the object is who has begun it",
    "status": "see the status of the coordinator and of its cell; there is no object",
    "resolve": "force an outcome: of a branch of this participant, or of a whole transaction (`*`)",
    "forget": "forget heuristic outcomes (`*`)",
    "review": "approve or reject what another has asked for, where that needs a second person (`*`)",
    "drain": "drain the coordinator (`*`)",
    "administer": "replace, forget or repair this participant; accept the loss of records (`loss`); reload the settings (`config`)",
    "forward": "be another node of the cell, and pass on the calls of others, as theirs (`*`)",
}
"""Every action, and what its object is. This is the whole vocabulary of a policy."""

BUILT_IN: Mapping[str, Mapping[str, Sequence[str]]] = {
    "observer": {"status": ["*"], "read": ["*"], "watch": ["*"]},
    "operator": {"roles": ["observer"], "end": ["*"], "resolve": ["*"], "forget": ["*"], "review": ["*"], "drain": ["*"]},
    "administrator": {"roles": ["operator"], "administer": ["*"]},
    "node": {"forward": ["*"], "status": ["*"]},
}
"""Roles that are always there. Which participants somebody may be, and what he may run, no role of ours can know."""

ENFORCE, DRY_RUN = "enforce", "dry-run"


class Decision(NamedTuple):
    """Whether something is allowed, and why."""

    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What some identities are given."""

    number: int
    """Its place in the file, from 1."""
    to: Sequence[str]
    actions: Mapping[str, Sequence[str]]
    """Its objects by action, roles and all."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was checked."""

    mode: str
    grants: Sequence[Grant]


def decide(policy: Policy, identity: str, action: str, object_name: str) -> Decision:
    """Whether an identity may do something to an object. An empty object asks whether there is any that it may do it to."""
    assert action in ACTIONS, f"{action} is no action"
    name = identity or NOBODY_NAME
    held: list[str] = []
    for grant in policy.grants:
        if not any(_is_for(pattern, name) for pattern in grant.to):
            continue
        for pattern in grant.actions.get(action, ()):
            if not object_name or matches(pattern, object_name):
                return Decision(True, f"grant {grant.number} gives {name} {action} on {pattern}")
            held.append(pattern)
    what = f"{action} on {object_name}" if object_name else action
    but = f"; it has {action} on {', '.join(held)}" if held else ""
    return Decision(False, f"no grant gives {name} {what}{but}")


def _is_for(pattern: str, name: str) -> bool:
    return pattern == name if name == NOBODY_NAME else matches(pattern, name)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is one that a pattern means; `*` is any characters, also none."""
    if "*" not in pattern:
        return pattern == name
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


# ---- reading one


_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
_HINT = "`troth policy check FILE` says what is wrong; docs/how-to/close-it.md has an example."


def parse(content: bytes) -> Policy:
    """Read a policy. Raises `ConfigError`, which names the place."""
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the policy is not TOML: {error}", hint="Mend the line that the message names.") from error
    unknown = table.keys() - {"mode", "grant", "role"}
    if unknown:
        raise ConfigError(f"the policy has {', '.join(sorted(unknown))}", hint="Write mode, [[grant]] and [role.NAME] alone.")
    mode = table.get("mode", ENFORCE)
    if mode not in (ENFORCE, DRY_RUN):
        raise ConfigError(f"the policy's mode is {mode!r}", hint=f"Write {ENFORCE!r} or {DRY_RUN!r}.")
    roles = _roles(table.get("role", {}))
    rows = table.get("grant", [])
    if not isinstance(rows, list):
        raise ConfigError("grant is no list", hint="Write [[grant]] with two brackets.")
    return Policy(mode, [_grant(number, row, roles) for number, row in enumerate(rows, 1)])


def _roles(table: Any) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """All roles by name, built-in ones too."""
    if not isinstance(table, dict):
        raise ConfigError("role is no table", hint="Write [role.NAME].")
    roles: dict[str, Mapping[str, Sequence[str]]] = dict(BUILT_IN)
    for name, row in table.items():
        if name in BUILT_IN:
            raise ConfigError(f"the role {name} is built in", hint="Give yours another name.")
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"{name!r} is no name of a role", hint="Use a-z, 0-9, '-' and '_'.")
        roles[name] = _checked(row, f"the role {name}", ())
    for name in roles:
        _flattened(name, roles, ())
    return roles


def _grant(number: int, row: Any, roles: Mapping[str, Mapping[str, Sequence[str]]]) -> Grant:
    where = f"grant {number}"
    given = _checked(row, where, ("to",))
    if not given.get("to"):
        raise ConfigError(f"{where} is to nobody", hint="Name identities: to = [\"spiffe://...\", \"token:ada\"].")
    actions: dict[str, list[str]] = {}
    for part in (given, *(_flattened(role, roles, (), where) for role in given.get("roles", ()))):
        for action in ACTIONS.keys() & part.keys():
            actions.setdefault(action, []).extend(part[action])
    if not actions:
        raise ConfigError(f"{where} gives nothing", hint="Name roles, or actions with objects.")
    return Grant(number, given["to"], actions)


def _checked(row: Any, where: str, also: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """A table whose values are lists of texts, under names that are known."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no table", hint=_HINT)
    for name, value in row.items():
        if name not in ACTIONS and name not in ("roles", *also):
            raise ConfigError(f"{where} has {name!r}, which is no action", hint=f"Actions are {', '.join(ACTIONS)}.")
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one for one in value):
            raise ConfigError(f"{name} of {where} is no list of texts", hint=f"Write {name} = [\"...\"].")
    return row


def _flattened(
    name: str, roles: Mapping[str, Mapping[str, Sequence[str]]], above: Sequence[str], where: str = ""
) -> Mapping[str, Sequence[str]]:  # fmt: skip
    """What a role gives, with all roles in it. Raises `ConfigError` for one that is not there, or is in itself."""
    if name in above:
        raise ConfigError(f"roles are in a circle: {' -> '.join((*above, name))}", hint="Take one of them out of the other.")
    if name not in roles:
        raise ConfigError(f"{where or f'the role {above[-1]}'} names the role {name!r}, which is not there", hint=_HINT)
    gathered: dict[str, list[str]] = {action: list(roles[name].get(action, ())) for action in ACTIONS}
    for inner in roles[name].get("roles", ()):
        for action, patterns in _flattened(inner, roles, (*above, name)).items():
            gathered[action].extend(patterns)
    return {action: patterns for action, patterns in gathered.items() if patterns}
