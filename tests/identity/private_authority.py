"""A private authority of a test's own."""

from __future__ import annotations

from pathlib import Path

from coordinator.pki import authority
from troth.identity.tls import Tls


class Pki:
    """An authority in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = authority.init(directory, "tests")

    def tls(self, file: str, *names: str, days: int = 1) -> Tls:
        """Issue a certificate, and say where it lies."""
        certificate = authority.issue(self.directory, file, names, days)
        return Tls(self.authorities, certificate, certificate.with_suffix(".key"))
