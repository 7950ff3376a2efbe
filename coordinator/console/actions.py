"""What operators may do, as the console offers it: what the core says can be done, with the command that does the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from troth.v1 import admin_pb2

ACTIONS = {
    "abort": admin_pb2.RESOLVE_ACTION_ABORT,
    "commit": admin_pb2.RESOLVE_ACTION_COMMIT,
    "abandon": admin_pb2.RESOLVE_ACTION_ABANDON,
}
_OFFER = re.compile(r"(abort|commit|abandon|forget)(?: --participant (\S+))?: (.+)", re.DOTALL)
_EITHER = re.compile(r"commit or abort with --participant (\S+): (.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that can be done to a transaction; without a verb only words."""

    transaction_id: str
    verb: str
    participant: str
    words: str

    @property
    def command(self) -> str:
        """The same on the command line."""
        what = ["troth", "txn", "forget", self.transaction_id] if self.verb == "forget" else self._resolve()
        return f"{shlex.join(what)} --why …"

    def _resolve(self) -> list[str]:
        at = ["--participant", self.participant] if self.participant else []
        return ["troth", "txn", "resolve", self.transaction_id, self.verb, *at]

    @property
    def link(self) -> str:
        """The page that shows what it would do, and asks."""
        return f"/transactions/{self.transaction_id}/{self.verb}?{urlencode({'participant': self.participant})}"

    @property
    def word(self) -> str:
        """What has to be typed: the verb, so that no habit of pressing Enter does it."""
        return self.verb.upper()


def offers(transaction_id: str, if_forced: Iterable[str]) -> list[Offer]:
    """What the words of an explanation offer."""
    found = []
    for line in if_forced:
        if match := _OFFER.fullmatch(line):
            found.append(Offer(transaction_id, match[1], match[2] or "", match[3]))
        elif match := _EITHER.fullmatch(line):
            found += [Offer(transaction_id, verb, match[1], match[2]) for verb in ("commit", "abort")]
        else:
            found.append(Offer(transaction_id, "", "", line))
    return found
