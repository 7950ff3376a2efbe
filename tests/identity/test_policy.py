"""The policy: what it decides, what a file may not say, and the commands that tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.cli.main import run
from coordinator.cli.policy import BEGINNING
from coordinator.identity.policy import ACTIONS, BUILT_IN, EVERYTHING, decide, matches, parse
from troth.errors import ConfigError

EXAMPLE = b"""
[[grant]]
to = ["spiffe://example.org/payments", "spiffe://example.org/pay/*"]
participate = ["payments"]

[[grant]]
to = ["spiffe://example.org/web", "oidc:*@example.org"]
begin = ["payments/*", "orders/place"]
roles = ["support"]

[[grant]]
to = ["token:ada"]
roles = ["administrator"]

[[grant]]
to = ["nobody"]
status = ["*"]

[role.support]
roles = ["observer"]
resolve = ["payments"]
"""


@pytest.mark.parametrize(
    ("pattern", "name", "same"),
    [
        ("payments", "payments", True), ("payments", "payments2", False), ("pay*", "payments", True), ("*", "", True),
        ("*", "a/b", True), ("a*c", "abc", True), ("a*c", "ac", True), ("a*a", "a", False), ("a*b*c", "a1b2c", True),
        ("a*b*b", "ab", False), ("*x*x*", "axbx", True), ("*x*x*", "ax", False), ("a.c", "abc", False), ("[ab]", "a", False),
    ],
)  # fmt: skip
def test_what_a_pattern_means(pattern: str, name: str, *, same: bool) -> None:
    assert matches(pattern, name) is same


@pytest.mark.parametrize(
    ("identity", "action", "on", "allowed"),
    [
        ("spiffe://example.org/payments", "participate", "payments", True),
        ("spiffe://example.org/pay/1", "participate", "payments", True),
        ("spiffe://example.org/payments", "participate", "orders", False),
        ("spiffe://evil.org/payments", "participate", "payments", False),
        ("spiffe://example.org/web", "begin", "payments/debit", True),
        ("spiffe://example.org/web", "begin", "payments/*", True),
        ("spiffe://example.org/web", "begin", "orders/place", True),
        ("spiffe://example.org/web", "begin", "orders/*", False),
        ("spiffe://example.org/web", "begin", "orders/cancel", False),
        ("spiffe://example.org/web", "begin", "", True),
        ("spiffe://example.org/payments", "begin", "", False),
        ("oidc:grace@example.org", "resolve", "payments", True),
        ("oidc:grace@example.org", "resolve", EVERYTHING, False),
        ("oidc:grace@example.org", "read", "spiffe://example.org/web", True),
        ("token:ada", "resolve", EVERYTHING, True),
        ("token:ada", "administer", "loss", True),
        ("token:ada", "begin", "payments/debit", False),
        ("", "status", EVERYTHING, True),
        ("", "begin", "", False),
    ],
)
def test_what_is_decided(identity: str, action: str, on: str, *, allowed: bool) -> None:
    decision = decide(parse(EXAMPLE), identity, action, on)
    assert decision.allowed is allowed
    assert decision.why


def test_nobody_is_meant_by_no_star() -> None:
    policy = parse(b'[[grant]]\nto = ["*"]\nroles = ["administrator"]\n')
    assert decide(policy, "token:ada", "drain", EVERYTHING).allowed
    assert not decide(policy, "", "drain", EVERYTHING).allowed


def test_an_empty_policy_gives_nothing_to_anybody() -> None:
    assert not any(decide(parse(b""), "token:ada", action, "").allowed for action in ACTIONS)


def test_no_built_in_role_is_a_participant_or_a_client() -> None:
    assert not any({"participate", "begin"} & set(role) for role in BUILT_IN.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[grant]", "not TOML"),
        ("\xff", "not TOML"),
        ("x = 1", "the policy has x"),
        ("mode = 'on'", "mode"),
        ("grant = 1", "no list"),
        ("role = 1", "no table"),
        ("grant = [1]", "grant 1 is no table"),
        ("[[grant]]\nread = ['*']", "to nobody"),
        ("[[grant]]\nto = ['a']", "gives nothing"),
        ("[[grant]]\nto = ['a']\nreed = ['*']", "no action"),
        ("[[grant]]\nto = ['a']\nread = '*'", "no list of texts"),
        ("[[grant]]\nto = ['a']\nread = []", "no list of texts"),
        ("[[grant]]\nto = ['a']\nroles = ['reader']", "which is not there"),
        ("[role.a]\nroles = ['nothing']", "which is not there"),
        ("[role.a]\nroles = ['b']\n[role.b]\nroles = ['a']", "circle: a -> b -> a"),
        ("[role.a]\nroles = ['a']", "circle: a -> a"),
        ("[role.operator]\nread = ['*']", "built in"),
        ("[role.'A b']\nread = ['*']", "no name"),
    ],
)
def test_what_a_policy_may_not_say(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text.encode("latin-1"))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "policy.toml")
    assert run(("policy", "example")) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert (tmp_path / "policy.toml").read_text() == BEGINNING
    assert run(("policy", "check", file)) == 0
    assert "payments/* orders/place" in capsys.readouterr().out
    assert run(("policy", "explain", "token:ada", "resolve", "payments", "--policy", file)) == 0
    assert "grant 4 gives token:ada resolve on *" in capsys.readouterr().out
    assert run(("policy", "explain", "nobody", "begin", "--policy", file, "--json")) == 1
    assert '"allowed": false' in capsys.readouterr().out
    assert run(("policy", "actions")) == 0
    (tmp_path / "bad.toml").write_text("x = 1")
    assert run(("policy", "check", str(tmp_path / "bad.toml"))) == 2
    assert run(("policy", "check", str(tmp_path / "nowhere.toml"))) == 2
    for flag in ("check", "actions"):
        assert run(("policy", flag, *((file,) if flag == "check" else ()), "--json")) == 0
