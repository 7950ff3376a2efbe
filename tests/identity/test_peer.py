"""Which of the things that a certificate says is its holder's name."""

from __future__ import annotations

import pytest

from troth.identity.peer import CERTIFICATE, NOBODY, Identity, identity_of

SAN, SPIFFE = "x509_subject_alternative_name", "peer_spiffe_id"


def test_a_spiffe_id_comes_before_a_dns_name() -> None:
    context = {SPIFFE: [b"spiffe://example.org/payments"], SAN: [b"payments.internal", b"spiffe://example.org/payments"]}
    assert identity_of(context) == Identity("spiffe://example.org/payments", CERTIFICATE)


def test_the_first_dns_name_is_taken_in_lower_case() -> None:
    assert identity_of({SAN: [b"10.0.0.7", b"Payments.Internal", b"other"]}).name == "payments.internal"


@pytest.mark.parametrize(
    "context",
    [None, {}, {"x509_common_name": [b"payments"]}, {SAN: [b"10.0.0.7"]}, {SAN: [b"::1"]}, {SAN: [b"*.internal"]},
     {SAN: [b"https://example.org/x"]}, {SAN: [b"payments\n"]}, {SAN: [b"\xff"]}, {SAN: [b"a" * 254]}],
)  # fmt: skip
def test_what_is_no_name(context: dict[str, list[bytes]] | None) -> None:
    assert identity_of(context) == NOBODY
    assert str(NOBODY) == "nobody"


def test_an_identity_is_shown_by_its_name() -> None:
    assert str(Identity("payments.internal", CERTIFICATE)) == "payments.internal"
