"""What of the daemon goes into its audit log, where it keeps one: by default where it has a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.identity import audit
from coordinator.identity.followed import Followed
from coordinator.identity.gate import Gate
from coordinator.identity.who import Witness
from coordinator.shell_settings import ShellSettings
from troth.errors import ConfigError
from troth.identity.peer import NOBODY, Identity

DIRECTORY = "audit"
"""Of the data directory."""


class Auditing:
    """The audit log of one daemon; between `begin` and `end` it is written."""

    def __init__(self, shell: ShellSettings, gate: Gate, witness: Witness) -> None:
        self._shell, self._gate, self._witness = shell, gate, witness
        self._log: audit.Audit | None = None

    def begin(self, node: str = "") -> None:
        """Open it; the data directory is ours by now. `node` is our name in a cell, where each has a chain of its own. Raises
        `ConfigError` or `LogFailed`."""
        shell, gate = self._shell, self._gate
        if gate.policy is None and not shell.audit_directory:
            return
        directory = Path(shell.audit_directory) if shell.audit_directory else Path(shell.data_directory) / DIRECTORY
        signer = audit.read_signer(shell.audit_key) if shell.audit_key else None
        self._log = audit.Audit(
            directory, node or shell.name, shell.audit_file_bytes, signer, retention_seconds=shell.audit_retention_seconds,
        )  # fmt: skip
        gate.on_refusal = self._log.refused
        for followed in (*([gate.policy] if gate.policy is not None else []), *self._witness.followed()):
            followed.on_change = _changes(self._log, followed)

    def end(self) -> None:
        """Close it."""
        if self._log is not None:
            log, self._log = self._log, None
            log.close()

    def unknown(self, peer: str, why: str) -> None:
        """Somebody has shown what is not accepted."""
        if self._log is not None:
            self._log.refused(NOBODY, "identify", peer, why)

    def participant(self, identity: Identity, name: str, incarnation: int) -> None:
        """An identity speaks for a participant from now on."""
        if self._log is not None:
            self._log.write("participant", **audit.who(identity), action="participate", object=name, incarnation=incarnation)

    def asked(self, identity: Identity, action: str, fields: dict[str, Any]) -> str:
        """An operator asks for something, and it is durable that he did before it is done. Returns the id of the request. Raises
        `LogFailed`: what cannot be recorded is not done."""
        request = audit.request_id()
        if self._log is not None:
            self._log.write("asked", durable=True, **audit.who(identity), action=action, request=request, **fields)
        return request

    def done(self, identity: Identity, action: str, request: str, before: str, after: str, refusal: str, **more: str) -> None:
        """What came of it."""
        if self._log is not None:
            self._log.write(
                "done", durable=True, **audit.who(identity), action=action, request=request, before=before, after=after,
                result=f"refused: {refusal}" if refusal else "done", **more,
            )  # fmt: skip


def _changes(log: audit.Audit, followed: Followed[Any]) -> Any:
    def tell(error: ConfigError | None) -> None:
        result = "in use" if error is None else "cannot be used; the last good one stays"
        log.write("file", object=followed.path, result=result, why=error.message if error is not None else "")

    return tell
