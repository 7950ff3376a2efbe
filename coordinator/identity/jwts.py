"""Tokens of an OpenID provider: JWTs (RFC 7519), checked against a file with its public keys.

The file is the provider's JSON Web Key Set (RFC 7517), fetched by whoever renews it: the coordinator itself asks nobody. Each key
is used with the algorithm that belongs to it and no other, so neither `alg: none` nor a public key taken for a shared secret gets
by (RFC 8725, sections 2.1 and 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from troth.errors import ConfigError, Reason, RequestError
from troth.identity.peer import OIDC, Identity

ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Signatures with a private key alone."""
LEEWAY_SECONDS = 30.0
"""How far the provider's clock may be from ours."""
NAME_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to say."""

    audience: str
    issuer: str
    claim: str
    """The claim that is the identity's name."""


def parse_keys(content: bytes) -> Mapping[str, Any]:
    """The keys of a set, by `kid`. Raises `ConfigError`."""
    try:
        import jwt
    except ImportError as error:
        raise ConfigError("JWTs need the extra 'oidc'", hint="Install it: pip install 'troth[coordinator,oidc]'.") from error
    hint = "Name the provider's JSON Web Key Set: its discovery document has it as jwks_uri."
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(content)).keys
    except (ValueError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ConfigError(f"the key set cannot be used: {error}", hint=hint) from error
    usable = {key.key_id or "": key for key in keys if key.algorithm_name in ALGORITHMS}
    if not usable:
        raise ConfigError("the key set has no key that signs", hint=hint)
    return usable


def identity_of(token: str, keys: Mapping[str, Any], expected: Expected) -> Identity:
    """Who shows a token. Raises `RequestError` (UNAUTHENTICATED, TOKEN_EXPIRED), which never holds it."""
    import jwt

    try:
        key = keys.get(str(jwt.get_unverified_header(token).get("kid", "")))
        if key is None:
            raise jwt.InvalidTokenError("it names no key of the key set")
        claims = jwt.decode(
            token, key.key, algorithms=[key.algorithm_name], audience=expected.audience, issuer=expected.issuer or None,
            leeway=LEEWAY_SECONDS, options={"require": ["exp", "aud", expected.claim, *(["iss"] if expected.issuer else [])]},
        )  # fmt: skip
    except jwt.ExpiredSignatureError as error:
        raise RequestError(Reason.TOKEN_EXPIRED, "the token has expired") from error
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise RequestError(Reason.UNAUTHENTICATED, f"the token is not accepted: {error}") from error
    name = claims[expected.claim]
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise RequestError(Reason.UNAUTHENTICATED, f"the token's claim {expected.claim!r} is no name")
    return Identity(f"oidc:{name}", OIDC, float(claims["exp"]) + LEEWAY_SECONDS)
