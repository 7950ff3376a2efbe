"""`troth pki`: an authority that is made once, certificates that are issued and renewed, and who may read the keys."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.pki import authority
from troth.errors import ConfigError


def test_keys_are_for_their_owner_only(pki: Pki) -> None:
    tls = pki.tls("payments", "spiffe://example.org/payments")
    for key in (pki.directory / "authority.key", Path(tls.key)):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(pki.directory.stat().st_mode) == 0o700
    assert not [path for path in pki.directory.iterdir() if path.name.startswith(".")]


def test_an_authority_is_never_replaced(pki: Pki) -> None:
    before = pki.authorities.read_bytes()
    with pytest.raises(ConfigError, match="has an authority already"):
        authority.init(pki.directory, "another")
    assert pki.authorities.read_bytes() == before


def test_what_was_issued_is_shown_and_renewed_for_the_same_names(pki: Pki) -> None:
    tls = pki.tls("node", "node.internal", "10.0.0.7", "spiffe://example.org/node")
    shown = authority.show(Path(tls.certificate))
    assert shown.names == ("node.internal", "10.0.0.7", "spiffe://example.org/node")
    assert 0.9 < shown.days_left < 1.1
    assert not shown.is_authority
    again = authority.show(authority.renew(pki.directory, "node", days=7))
    assert again.names == shown.names
    assert again.serial != shown.serial
    assert authority.show(pki.authorities).is_authority


@pytest.mark.parametrize("file", ["authority", "../x", "", ".hidden", "a/b"])
def test_names_of_files_that_are_refused(pki: Pki, file: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        authority.issue(pki.directory, file, ["a.internal"])


@pytest.mark.parametrize(
    "names",
    [[], ["UPPER.internal"], ["*.internal"], ["http://example.org"], ["spiffe://example.org"], ["spiffe://a/b", "spiffe://a/c"],
     ["10.0.0"], ["a b"]],
)  # fmt: skip
def test_names_of_holders_that_are_refused(pki: Pki, names: list[str]) -> None:
    with pytest.raises(ConfigError):
        authority.issue(pki.directory, "x", names)
    assert not (pki.directory / "x.pem").exists()


@pytest.mark.parametrize("days", [0, -1, 399])
def test_days_that_are_refused(pki: Pki, days: int) -> None:
    with pytest.raises(ConfigError, match="is not issued"):
        authority.issue(pki.directory, "x", ["a.internal"], days)


def test_an_authority_that_ends_too_soon_issues_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "AUTHORITY_DAYS", 5)
    authority.init(tmp_path, "short")
    with pytest.raises(ConfigError, match="ends in 4 days"):
        authority.issue(tmp_path, "x", ["a.internal"], 30)


def test_an_authority_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        authority.issue(tmp_path, "x", ["a.internal"])
    assert "troth pki init" in caught.value.hint


def test_a_key_that_is_none(pki: Pki) -> None:
    (pki.directory / "authority.key").write_text("no key")
    with pytest.raises(ConfigError, match="no private key"):
        authority.issue(pki.directory, "x", ["a.internal"])


def test_a_certificate_that_is_none(pki: Pki) -> None:
    with pytest.raises(ConfigError, match="no certificate"):
        authority.show(pki.directory / "authority.key")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path / "pki")]
    assert run(["pki", "init", *where]) == 0
    assert run(["pki", "issue", "payments", "--name", "spiffe://example.org/payments", "--days", "7", *where]) == 0
    assert "valid until" in capsys.readouterr().out
    assert run(["pki", "renew", "payments", *where]) == 0
    files = [str(tmp_path / "pki" / name) for name in ("authority.pem", "payments.pem")]
    assert run(["pki", "show", *files]) == 0
    assert "spiffe://example.org/payments" in capsys.readouterr().out
    assert run(["pki", "show", "--json", *files]) == 0
    shown = json.loads(capsys.readouterr().out)["certificates"]
    assert [one["authority"] for one in shown] == [True, False]
    assert run(["pki", "init", *where]) == 2
    assert "has an authority already" in capsys.readouterr().err
