"""Files of TLS are looked at before gRPC sees them, and again when they have changed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from private_authority import Pki

from troth.errors import ConfigError
from troth.identity.tls import Newest, Tls, server_credentials


def test_good_files_are_read(pki: Pki) -> None:
    tls = pki.tls("payments", "payments.internal")
    material = tls.read()
    assert b"BEGIN CERTIFICATE" in material.certificate
    assert b"PRIVATE KEY" in material.key
    assert b"BEGIN CERTIFICATE" in material.authorities
    tls.check()
    assert Tls().read() == (b"", b"", b"")


def _other_key(tls: Tls, pki: Pki) -> Tls:
    return Tls(tls.authorities, tls.certificate, pki.tls("other", "other.internal").key)


def _passphrase(tls: Tls, pki: Pki) -> Tls:
    closed = pki.directory / "closed.key"
    command = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", tls.key, "-out", closed]
    subprocess.run(command, check=True, capture_output=True)
    closed.chmod(0o600)
    return Tls(tls.authorities, tls.certificate, closed)


def _open_key(tls: Tls, pki: Pki) -> Tls:
    Path(tls.key).chmod(0o644)
    return tls


def _no_pem(tls: Tls, pki: Pki) -> Tls:
    Path(tls.certificate).write_text("hello")
    return tls


def _torn(tls: Tls, pki: Pki) -> Tls:
    whole = Path(tls.authorities).read_bytes()
    Path(tls.authorities).write_bytes(whole[: len(whole) // 2] + b"\n-----END CERTIFICATE-----\n")
    return tls


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tls, pki: Tls(tls.authorities, tls.certificate), "a certificate is named alone"),
        (lambda tls, pki: Tls(tls.authorities, "", tls.key), "a key is named alone"),
        (lambda tls, pki: Tls(tls.authorities, "/nowhere.pem", tls.key), "/nowhere.pem cannot be read"),
        (_other_key, "cannot be used together"), (_passphrase, "cannot be used together"),
        (_open_key, "open to others (mode 0644)"), (_no_pem, "is not PEM"), (_torn, "has no certificate that can be used"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(pki: Pki, spoil: Callable[[Tls, Pki], Tls], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spoil(pki.tls("payments", "payments.internal"), pki).check()
    assert says in caught.value.message
    assert caught.value.hint


def test_a_key_of_root_may_be_readable_for_its_group(pki: Pki) -> None:
    tls = pki.tls("payments", "payments.internal")
    Path(tls.key).chmod(0o640)
    if os.stat(tls.key).st_uid == 0:
        tls.check()
    else:
        with pytest.raises(ConfigError, match="open to others"):
            tls.check()


def test_a_stamp_changes_when_a_file_is_written_anew(pki: Pki) -> None:
    tls = pki.tls("payments", "payments.internal")
    before = tls.stamp()
    assert tls.stamp() == before
    pki.tls("payments", "payments.internal")
    assert tls.stamp() != before
    Path(tls.key).unlink()
    assert (0, 0, 0) in tls.stamp()


def test_a_server_needs_files_that_can_be_used(pki: Pki) -> None:
    with pytest.raises(ConfigError):
        server_credentials(Tls(certificate="/nowhere.pem", key="/nowhere.key"), lambda error: None)


def test_a_server_takes_new_files_once_and_tells_of_bad_ones_once(pki: Pki) -> None:
    told: list[str] = []
    newest = Newest(pki.tls("server", "server.internal"), lambda error: told.append(error.message if error else "taken"))
    assert newest.first is not None
    assert newest() is None
    pki.tls("server", "server.internal")
    assert newest() is not None
    assert newest() is None
    (pki.directory / "server.key").write_text("no key")
    assert newest() is None
    assert newest() is None
    assert told[0] == "taken"
    assert len(told) == 2
    assert "server.key is not PEM" in told[1]
