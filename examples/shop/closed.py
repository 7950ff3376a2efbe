"""A throw-away authority for `troth dev --closed`: everybody has a certificate of it, browsers a token, and a policy says who may
do what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coordinator.identity import tokens
from coordinator.pki import authority
from participant_sdk import Tls

COORDINATOR, CALLER, OPERATOR = "coordinator", "caller", "operator"
DAYS = 30
"""More than anybody leaves it running; it is deleted with its directory."""
_HOLDER = "spiffe://dev/{}"
_SERVICE = """[[grant]]
to = ["spiffe://dev/{0}"]
participate = ["{0}"]
begin = ["*"]
"""
_OTHERS = """[[grant]]
to = ["spiffe://dev/caller"]
begin = ["*"]

[[grant]]
to = ["spiffe://dev/operator", "token:operator"]
roles = ["administrator"]
"""


class Closed:
    """The authority, the certificates, a token and the policy, as files below one directory."""

    def __init__(self, directory: Path, services: Sequence[str]) -> None:
        self._directory = directory / "pki"
        self._shell = directory / "shell"
        self._authorities = authority.init(self._directory, "troth dev")
        authority.issue(self._directory, COORDINATOR, ("localhost", "127.0.0.1"), DAYS)
        for name in (*services, CALLER, OPERATOR):
            authority.issue(self._directory, name, (_HOLDER.format(name),), DAYS)
        self._policy = directory / "policy.toml"
        self._policy.write_text("\n".join((*(_SERVICE.format(name) for name in services), _OTHERS)))
        self.token = tokens.draw()
        self._tokens = directory / "tokens.toml"
        self._tokens.write_text(tokens.entry_text(OPERATOR, tokens.hash_of(self.token), datetime.now(UTC) + timedelta(days=DAYS)))
        for file in (self._policy, self._tokens):
            file.chmod(0o600)

    def tls(self, name: str) -> Tls:
        """How `name` shows who it is, and whom it believes."""
        certificate = self._directory / f"{name}.pem"
        return Tls(self._authorities, certificate, certificate.with_suffix(".key"))

    def settings(self) -> tuple[str, ...]:
        """The coordinator's, as NAME=VALUE."""
        tls = self.tls(COORDINATOR)
        files = f"tls_authorities={tls.authorities}", f"tls_certificate={tls.certificate}", f"tls_key={tls.key}"
        return (*files, f"policy={self._policy}", f"tokens={self._tokens}", "token_listen=127.0.0.1:0")

    def shell(self, coordinator: str) -> Path:
        """The file that a shell has to read (`. FILE`) for `troth` to ask this coordinator as an operator."""
        tls = self.tls(OPERATOR)
        said = {
            "TROTH_COORDINATOR": coordinator, "TROTH_CLIENT_AUTHORITIES": tls.authorities,
            "TROTH_CLIENT_CERTIFICATE": tls.certificate, "TROTH_CLIENT_KEY": tls.key,
        }  # fmt: skip
        self._shell.write_text("".join(f"export {name}='{value}'\n" for name, value in said.items()))
        return self._shell
