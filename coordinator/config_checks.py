"""What is wrong with a value of one setting, and with settings of who gets in, taken together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from coordinator.cell.store import check_store
from troth import features
from troth.address import check_dialled, is_loopback, split_address
from troth.errors import ConfigError, RequestError
from troth.ids import check_name

if TYPE_CHECKING:
    from coordinator.shell_settings import ShellSettings

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_TRANSACTIONS = ("all", "not_committed", "none")
LOG_FORMATS = ("auto", "console", "json")


def check_access(shell: ShellSettings) -> None:
    """Raise `ConfigError` for settings of who gets in that do not go together."""
    for problem, text, hint in _access_problems(shell):
        if problem:
            raise ConfigError(text, hint=hint)


def _access_problems(shell: ShellSettings) -> Iterable[tuple[bool, str, str]]:
    certified, tokens = bool(shell.tls_certificate), bool(shell.tokens or shell.jwt_keys)
    yield (
        bool(shell.tls_authorities) and not certified, "tls_authorities is set, and tls_certificate is not",
        "Name the coordinator's certificate and key too.",
    )  # fmt: skip
    yield shell.insecure and certified, "insecure is set, and tls_certificate too", "Leave one of them out."
    yield (
        not (certified or shell.insecure or is_loopback(shell.listen)),
        f"listen is {shell.listen!r}, which others can reach, and there is no TLS: whoever reaches it could force outcomes",
        "Set tls_certificate, tls_key and tls_authorities (`troth pki` makes them), or `--insecure` if you mean it.",
    )
    yield bool(shell.tls_revoked) and not shell.tls_authorities, "tls_revoked is set, and tls_authorities is not", _AUTHORITIES
    yield (tokens or bool(shell.token_listen)) and not certified, "tokens are taken over TLS alone", _CERTIFIED
    yield bool(shell.token_listen) and not tokens, "token_listen is set, and neither tokens nor jwt_keys is", _TOKENS
    yield (
        tokens and bool(shell.tls_authorities) and not shell.token_listen,
        "with tls_authorities everybody at `listen` shows a certificate, so nobody would ever show a token",
        "Set token_listen, where nobody is asked for a certificate; or leave tls_authorities out.",
    )
    yield (
        bool(shell.reviews) and shell.policy in ("", "open"), "reviews are set, and there is no policy",
        "Name a policy: without one nobody knows who the second person is.",
    )  # fmt: skip
    yield (
        bool(shell.payload_keys) and features.PAYLOAD_KEYS in features.held_back(shell.features_held_back),
        "payload_keys are set, and features_held_back holds that feature back",
        "Set them once every node is upgraded: an older version does not open what they seal.",
    )
    console = shell.console_listen
    outside = bool(console) and not is_loopback(console)
    yield outside and not certified, "console_listen is an address that others can reach, and there is no TLS", _CERTIFIED
    yield (
        bool(console) and not tokens and (outside or bool(shell.tls_authorities)),
        "whoever calls here has to say who he is, and a browser can only show a token: there are none for the console",
        "Set tokens (`troth token` writes them) or jwt_keys, with token_listen; or leave console_listen out.",
    )
    yield bool(shell.jwt_keys) and not shell.jwt_audience, "jwt_keys is set, and jwt_audience is not", _AUDIENCE


    yield (
        not (shell.policy or shell.insecure) and (tokens or bool(shell.tls_authorities) or not is_loopback(shell.listen)),
        "there is no policy, so nobody would be allowed anything",
        "Name a policy (`troth policy example` writes one to begin with), or say that everybody may do anything: policy=open.",
    )


_AUTHORITIES = "Name who signs for peers: tls_authorities."
_CERTIFIED = "Set tls_certificate and tls_key."
_TOKENS = "Name the file of tokens, or the provider's keys."
_AUDIENCE = "Name the audience: without it any token of the provider, made for whatever service, would be taken."


def _check_listen(text: str) -> str:
    try:
        split_address(text)
    except ConfigError as error:
        return f"{error.message}; {error.hint}"
    return ""


def _check_web_address(text: str) -> str:
    parts = urlsplit(text)
    return "" if not text or (parts.scheme in ("http", "https") and parts.hostname) else "write http://HOST/PATH or https://HOST/PATH"


def _check_coordinator(text: str) -> str:
    try:
        check_name("coordinator", text)
    except RequestError as error:
        return error.message
    return ""


_SOCKET = re.compile(r"unix:/[^\0]{1,100}")
"""The kernel takes 107 bytes."""
REVIEWS = ("resolve", "replace", "forget", "accept-loss")
"""What may need a second person; see `coordinator.services.reviews`."""


def _check_reviews(text: str) -> str:
    unknown = [one.strip() for one in text.split(",") if text and one.strip() not in REVIEWS]
    return f"it may have {', '.join(REVIEWS)}" if unknown else ""


_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,254}")


def _check_node(text: str) -> str:
    allowed = "use 1 to 255 letters, digits, '.', '_', ':' and '-', beginning with a letter or digit"
    return "" if not text or _NODE.fullmatch(text) else allowed


def _check_advertise(text: str) -> str:
    try:
        if text:
            check_dialled(text)
    except ConfigError as error:
        return f"{error.message}; {error.hint}"
    return "write one address" if "," in text else ""


def _check_features(text: str) -> str:
    missing = features.unknown(text)
    known = ", ".join((*sorted(features.NAMES), features.ALL))
    return f"{', '.join(missing)} is no feature of this version; it has {known}" if missing else ""


CHECKS: Mapping[str, Callable[[str], str]] = {
    "name": _check_coordinator,
    "listen": _check_listen,
    "admin_listen": lambda text: "" if not text or _SOCKET.fullmatch(text) else _check_listen(text),
    "reviews": lambda text: _check_reviews(text),
    "token_listen": lambda text: _check_listen(text) if text else "",
    "store": check_store,
    "features_held_back": _check_features,
    "node": _check_node,
    "advertise": _check_advertise,
    "console_listen": lambda text: _check_listen(text) if text else "",
    "metrics_listen": lambda text: _check_listen(text) if text else "",
    "on_attention": _check_web_address,
    "data_directory": lambda text: "" if text else "name a directory",
    "log_level": lambda text: "" if text in LOG_LEVELS else f"it must be one of {', '.join(LOG_LEVELS)}",
    "log_transactions": lambda text: "" if text in LOG_TRANSACTIONS else f"it must be one of {', '.join(LOG_TRANSACTIONS)}",
    "log_format": lambda text: "" if text in LOG_FORMATS else f"it must be one of {', '.join(LOG_FORMATS)}",
}
"""For each text setting: what is wrong with a value, or an empty text."""
