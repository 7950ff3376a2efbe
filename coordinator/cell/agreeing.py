"""The settings on which the nodes of a cell should agree, and how they see that they do not.

Any node may come to have any shard. What was promised to a caller (how long an outcome is kept, how large a request may be), what
an operator is asked for (a second person), and who gets in must not depend on where a shard happens to be. Nothing can enforce that
while nodes are restarted one by one with new settings, so each node says of every such setting what tells its value apart, beside
its lease; whoever reads another node's text names what differs. Nobody is refused for it: a cell that serves nothing is worse.

Settings of the machine (addresses, directories, how much it holds and tells) are each node's own, and so is what is sized by its
memory. Values do not travel: they may tell more than the store's readers should know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from coordinator.config import Config
from coordinator.identity.gate import Gate

AGREED = (
    # who gets in, and who is asked
    "insecure", "jwt_audience", "jwt_claim", "jwt_issuer", "reviews", "review_seconds",
    # what a request may be
    "frame_bytes_max", "key_bytes_max", "operations_max", "participants_max", "payload_bytes_max", "timeout_ms_max",
    # what is kept, and how long
    "history_seconds", "lease_seconds", "retention_seconds", "session_linger_seconds", "skew_seconds",
    # what is used of a new version
    "features_held_back",
)  # fmt: skip
"""By name; `policy` is the content of its file, and comes with them."""
DIGEST_CHARACTERS = 6
"""Of the SHA-256 of a value, in hexadecimal: to see a slip, and not an enemy, who could write what he likes."""


def told(config: Config, gate: Gate) -> str:
    """What a node says of its settings: `name=digest`, in the order of names, with commas between."""
    values = {name: str(config.value(name)) for name in AGREED}
    values["policy"] = gate.policy.digest if gate.policy is not None else config.shell.policy
    return ",".join(f"{name}={_digest(values[name])}" for name in sorted(values))


def differing(own: str, other: str) -> Sequence[str]:
    """The names of settings that both know, and of which they tell something else. Other software may know more, or none."""
    here, there = _parsed(own), _parsed(other)
    return [name for name, digest in here.items() if name in there and there[name] != digest]


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:DIGEST_CHARACTERS]


def _parsed(text: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in text.split(",") if one)
    return {name: digest for name, _, digest in pairs}
