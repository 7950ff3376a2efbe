"""Who calls: certificates, tokens of the coordinator's own, JWTs; and everything that is not accepted, each with its reason."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from private_authority import Pki

from coordinator.identity import followed, tokens
from coordinator.identity.followed import Followed
from coordinator.identity.who import Witness
from coordinator.shell_settings import ShellSettings
from troth.errors import ConfigError, Reason, RequestError
from troth.identity.peer import CERTIFICATE, NOBODY, OIDC, TOKEN

AUDIENCE, ISSUER = "troth", "https://login.example.org"


class FakeCall:
    """What gRPC's context says."""

    def __init__(self, connection: Mapping[str, Iterable[bytes]] | None = None, authorization: str = "") -> None:
        self._connection = connection or {}
        self._metadata = (("authorization", authorization),) if authorization else ()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._connection

    def invocation_metadata(self) -> Any:
        return self._metadata


def bearer(token: str) -> FakeCall:
    return FakeCall(authorization=f"Bearer {token}")


def refusal(witness: Witness, call: FakeCall) -> RequestError:
    with pytest.raises(RequestError) as caught:
        witness.identity(call)
    return caught.value


# ---- tokens of the coordinator's own


@pytest.fixture
def ada(tmp_path: Path) -> tuple[ShellSettings, str]:
    """Settings with one token, and the token."""
    token, until = tokens.draw(), datetime.now(UTC) + timedelta(days=1)
    file = tmp_path / "tokens.toml"
    file.write_text(tokens.entry_text("ada", tokens.hash_of(token), until))
    file.chmod(0o600)
    return ShellSettings(tokens=str(file)), token


def test_a_token_names_its_holder(ada: tuple[ShellSettings, str]) -> None:
    identity = Witness(ada[0]).identity(bearer(ada[1]))
    assert (identity.name, identity.shown_by) == ("token:ada", TOKEN)
    assert ada[1] not in Path(ada[0].tokens).read_text()


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer nonsense", "Bearer a b"])
def test_what_is_no_token_of_anybody_is_refused(ada: tuple[ShellSettings, str], header: str) -> None:
    assert refusal(Witness(ada[0]), FakeCall(authorization=header)).reason is Reason.UNAUTHENTICATED


def test_a_token_shown_after_its_time(ada: tuple[ShellSettings, str]) -> None:
    """Replayed by whoever has kept it."""
    late = Witness(ada[0], clock=lambda: time.time() + 2 * 86_400)
    assert refusal(late, bearer(ada[1])).reason is Reason.TOKEN_EXPIRED


def test_who_shows_nothing_is_nobody(ada: tuple[ShellSettings, str]) -> None:
    assert Witness(ada[0]).identity(FakeCall()) is NOBODY


def test_a_certificate_comes_before_a_token(ada: tuple[ShellSettings, str]) -> None:
    call = FakeCall({"peer_spiffe_id": [b"spiffe://example.org/web"]}, f"Bearer {ada[1]}")
    assert Witness(ada[0]).identity(call).shown_by == CERTIFICATE


@pytest.mark.parametrize(
    "text",
    ["[[token]", "x = 1", "token = 3", "[[token]]\nname = 'a'", "[[token]]\nname = 'a b'\nsha256 = '0'",
     f"[[token]]\nname = 'a'\nsha256 = '{'0' * 64}'\nuntil = 'soon'", f"[[token]]\nname = 'a'\nsha256 = '{'0' * 64}'\nrole = 'x'",
     f"[[token]]\nname = 'a'\nsha256 = '{'0' * 64}'\n" * 2],
)  # fmt: skip
def test_files_of_tokens_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        tokens.parse(text.encode())


# ---- files that are followed


def test_a_file_is_followed_and_a_bad_one_leaves_the_last_good_content(tmp_path: Path) -> None:
    file, now, told = tmp_path / "x", 0.0, []
    file.write_text("1")
    following = Followed(str(file), _number, clock=lambda: now)
    following.on_change = told.append
    for text, wanted in (("22", 22), ("three", 22), ("444", 444)):
        file.write_text(text)
        now += followed.LOOK_SECONDS
        assert following() == wanted
    assert [type(one) for one in told] == [type(None), ConfigError, type(None)]
    file.write_text("5")
    assert following() == 444, "it is not looked at each time"


def _number(content: bytes) -> int:
    try:
        return int(content)
    except ValueError as error:
        raise ConfigError("no number") from error


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("1")
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="may be written by others"):
        Followed(str(file), _number)


# ---- JWTs


class Provider:
    """An OpenID provider."""

    def __init__(self, directory: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / "jwks.json"
        self.publish()

    def publish(self, kid: str = "k1") -> None:
        """Write the key set."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        self.file.write_text(json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256", "use": "sig"}]}))

    @property
    def settings(self) -> ShellSettings:
        """Settings that believe it."""
        return ShellSettings(jwt_keys=str(self.file), jwt_audience=AUDIENCE, jwt_issuer=ISSUER)

    def token(self, *, algorithm: str = "ES256", key: Any = None, headers: Mapping[str, str] | None = None, **claims: Any) -> str:
        """A token that is in order, but for what is said otherwise; a claim of `None` is left out."""
        said = {"sub": "ada", "aud": AUDIENCE, "iss": ISSUER, "exp": time.time() + 600, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.key if key is None else key, algorithm, headers={"kid": "k1", **(headers or {})})


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """A provider of the test's own."""
    return Provider(tmp_path)


def test_a_token_of_the_provider(provider: Provider) -> None:
    witness = Witness(provider.settings)
    token = provider.token()
    assert [witness.identity(bearer(token)) for _ in range(2)][1].shown_by == OIDC
    assert witness.identity(bearer(token)).name == "oidc:ada"


FORGERIES: dict[str, Callable[[Provider], str]] = {
    "alg none": lambda p: jwt.encode({"sub": "ada", "aud": AUDIENCE, "iss": ISSUER, "exp": time.time() + 600}, None, "none",
                                     headers={"kid": "k1"}),
    "alg HS256 with the public key": lambda p: _with_the_public_key(p),
    "another audience": lambda p: p.token(aud="billing"),
    "no audience": lambda p: p.token(aud=None),
    "another issuer": lambda p: p.token(iss="https://evil.example.org"),
    "no issuer": lambda p: p.token(iss=None),
    "no expiry": lambda p: p.token(exp=None),
    "not yet valid": lambda p: p.token(nbf=time.time() + 600),
    "another's key": lambda p: p.token(key=ec.generate_private_key(ec.SECP256R1())),
    "a key that is not in the set": lambda p: p.token(headers={"kid": "k2"}),
    "no subject": lambda p: p.token(sub=None),
    "an empty subject": lambda p: p.token(sub=""),
    "a subject over two lines": lambda p: p.token(sub="ada\nroot"),
    "cut": lambda p: p.token()[:-9],
}  # fmt: skip


def _with_the_public_key(provider: Provider) -> str:
    pem = provider.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body = _part({"alg": "HS256", "kid": "k1"}), _part({"sub": "ada", "aud": AUDIENCE, "iss": ISSUER, "exp": 2e9})
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head + b"." + body, pem)
    return (head + b"." + body + b"." + jwt.utils.base64url_encode(mac)).decode()


def _part(document: Mapping[str, Any]) -> bytes:
    return jwt.utils.base64url_encode(json.dumps(document).encode())


@pytest.mark.parametrize("name", FORGERIES)
def test_tokens_that_are_not_accepted(provider: Provider, name: str) -> None:
    token = FORGERIES[name](provider)
    refused = refusal(Witness(provider.settings), bearer(token))
    assert refused.reason is Reason.UNAUTHENTICATED
    assert token not in str(refused)


def test_a_token_of_the_provider_after_its_time_and_with_clocks_apart(provider: Provider) -> None:
    witness = Witness(provider.settings)
    assert refusal(witness, bearer(provider.token(exp=time.time() - 60))).reason is Reason.TOKEN_EXPIRED
    assert witness.identity(bearer(provider.token(exp=time.time() - 10, nbf=time.time() + 10))).name == "oidc:ada"


def test_a_remembered_token_expires_all_the_same(provider: Provider) -> None:
    now = time.time()
    witness = Witness(provider.settings, clock=lambda: now)
    token = provider.token(exp=now + 5)
    assert witness.identity(bearer(token)).name == "oidc:ada"
    now += 60
    assert refusal(witness, bearer(token)).reason is Reason.TOKEN_EXPIRED


def test_a_token_is_not_remembered_longer_than_its_key(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "LOOK_SECONDS", 0.0)
    witness = Witness(provider.settings)
    token = provider.token()
    assert witness.identity(bearer(token)).name == "oidc:ada"
    provider.publish("k2 with another name")
    assert refusal(witness, bearer(token)).reason is Reason.UNAUTHENTICATED


SHARED_SECRET = '{"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1", "alg": "HS256"}]}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": []}', SHARED_SECRET])
def test_key_sets_that_are_refused(provider: Provider, text: str) -> None:
    provider.file.write_text(text)
    with pytest.raises(ConfigError, match="key set"):
        Witness(provider.settings)


# ---- certificates


def shown(pki: Pki, file: str) -> FakeCall:
    pem = (pki.directory / f"{file}.pem").read_bytes()
    return FakeCall({"peer_spiffe_id": [b"spiffe://example.org/web"], "x509_pem_cert": [pem]})


def revoke(pki: Pki, file: str, *, days: int = 1) -> ShellSettings:
    """Settings with a list on which a certificate stands."""
    authority = x509.load_pem_x509_certificate(pki.authorities.read_bytes())
    key = serialization.load_pem_private_key(pki.authorities.with_suffix(".key").read_bytes(), None)
    serial = x509.load_pem_x509_certificate((pki.directory / f"{file}.pem").read_bytes()).serial_number
    now = datetime.now(UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
    builder = x509.CertificateRevocationListBuilder(authority.subject, now - timedelta(days=9), now + timedelta(days=days))
    crl = builder.add_revoked_certificate(entry).sign(key, hashes.SHA256())  # type: ignore[arg-type]  # it is the authority's
    path = pki.directory / "revoked.pem"
    path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    return ShellSettings(tls_revoked=str(path))


def test_a_revoked_certificate_and_one_of_which_a_stale_list_cannot_tell(pki: Pki) -> None:
    for file in ("web", "old"):
        pki.tls(file, "spiffe://example.org/web")
    witness = Witness(revoke(pki, "old"))
    assert witness.identity(shown(pki, "web")).name == "spiffe://example.org/web"
    assert "revoked" in refusal(witness, shown(pki, "old")).message
    stale = Witness(revoke(pki, "old", days=-1))
    assert "out of date" in refusal(stale, shown(pki, "web")).message


def test_a_certificate_that_expired_while_its_connection_went_on(pki: Pki) -> None:
    pki.tls("web", "spiffe://example.org/web", days=1)
    now = time.time()
    witness = Witness(ShellSettings(), clock=lambda: now)
    identity = witness.identity(shown(pki, "web"))
    witness.check(identity)
    now += 2 * 86_400
    with pytest.raises(RequestError) as caught:
        witness.check(identity)
    assert caught.value.reason is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize("content", [b"no list", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_lists_of_revoked_certificates_that_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "revoked.pem").write_bytes(content)
    with pytest.raises(ConfigError, match="revoked"):
        Witness(ShellSettings(tls_revoked=str(tmp_path / "revoked.pem")))
