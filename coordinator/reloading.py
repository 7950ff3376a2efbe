"""Settings that change while the daemon runs: which these are, what a new reading of them would change, and the change itself.

Everything is read again from where it was read at the start: the same flags, variables and file. Whatever is wrong with that, or
differs in a setting that only a start can change, is told, and then nothing at all is changed: who mends a file in a hurry must not
be left with half of it. What can change is what is looked at anew each time it is needed; a lower limit sends nobody away, it only
lets nobody in until there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coordinator.config import Config, Loaded
from coordinator.identity.auditing import Auditing
from coordinator.services import status
from troth.errors import ConfigError, LogFailed
from troth.identity.peer import NOBODY, Identity
from troth.logs import get_logger
from troth.v1 import admin_pb2

log = get_logger("troth.config")

RELOADABLE = frozenset(
    {
        # what is told
        "log_level",
        # what a newer version can do, and how much it gets to do
        "features_held_back", "canary",
        # how long
        "answer_seconds", "drain_seconds", "goodbye_seconds", "settle_answer_seconds",
        # how many at once, of the node
        "identity_begins_per_second", "identity_calls_max", "identity_connections_max", "outboxes_bytes_max", "unary_calls_max",
        "watches_max", "connection_watches_max", "transaction_watches_max",
        # how many at once, of each shard
        "open_transactions_max", "owner_transactions_max", "questions_max", "sessions_max", "unseen_answers_max", "proving_max",
        "keys_max", "key_results_bytes_max", "retained_transactions_max", "known_participants_max", "late_heuristics_max",
        # how much is remembered for people
        "history_rows_max", "history_bytes_max",
    }
)  # fmt: skip
"""The settings that can change while the daemon runs; all others need a restart."""
SECRET = frozenset({"store", "on_attention"})
"""Settings that may hold a password: nobody is shown what they are."""

Read = Callable[[], Loaded]
"""Reads the settings from where they were read at the start. Raises `ConfigError`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is read with another value than is in use."""

    name: str
    before: Any
    after: Any
    origin: str
    """Where the new value comes from."""

    @property
    def reloadable(self) -> bool:
        """Whether it can change without a restart."""
        return self.name in RELOADABLE

    def told(self) -> admin_pb2.SettingChange:
        """The same for operators."""
        before, after = ("", "") if self.name in SECRET else (shown(self.before), shown(self.after))
        return admin_pb2.SettingChange(
            name=self.name, before=before, after=after, origin=self.origin, reloadable=self.reloadable
        )  # fmt: skip

    def __str__(self) -> str:
        return self.name if self.name in SECRET else f"{self.name}: {shown(self.before)} -> {shown(self.after)}"


def shown(value: Any) -> str:
    """A value as a TOML file has it, without the quotes of a text."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def changes(running: Config, read: Loaded) -> list[Change]:
    """What differs, by name."""
    found = []
    for one in read.settings:
        before = running.value(one.name)
        if before != one.value:
            found.append(Change(one.name, before, one.value, one.origin))
    return sorted(found, key=lambda change: change.name)


class Reloading:
    """Has one node use settings that were read again. `use` hears of them, all at once."""

    def __init__(self, running: Config, read: Read, use: Callable[[Config], None], auditing: Auditing) -> None:
        self._running, self._read, self._use, self._auditing = running, read, use, auditing

    def order(self, caller: Identity, *, dry_run: bool = False, how: str = "") -> admin_pb2.ReloadConfigResponse:
        """Somebody wants it; both logs say so, and what came of it. `how` tells what he did, where it was no call. Raises
        `LogFailed` when it cannot be recorded, and has not happened then."""
        response = admin_pb2.ReloadConfigResponse()
        found: list[Change] = []
        try:
            read = self._read()
            found = changes(self._running, read)
            response.changes.extend(change.told() for change in found)
            _check(found)
        except ConfigError as error:
            response.refusal.CopyFrom(status.cause_of(error))
        if not dry_run:
            self._do(caller, how, found, response, lambda: self._take(read.config))
        return response

    def on_signal(self) -> None:
        """A signal asks for it. Nobody is known to have asked: whoever may send signals here."""
        try:
            self.order(NOBODY, how="SIGHUP")
        except LogFailed as error:
            log.error("the settings were not read again: that could not be recorded", error=error.message)

    def _take(self, config: Config) -> None:
        self._running = config
        self._use(config)

    def _do(
        self, caller: Identity, how: str, found: list[Change], response: admin_pb2.ReloadConfigResponse, take: Callable[[], None]
    ) -> None:  # fmt: skip
        differs = "; ".join(map(str, found))
        refusal = response.refusal.reason
        request = self._auditing.asked(caller, "ReloadConfig", {"object": "config", "order": differs, "why": how})
        if refusal:
            log.warning("the settings were read again, and nothing is changed", why=response.refusal.message, differs=differs)
        elif found:
            take()
            response.applied = True
            log.warning("the settings were read again, and have changed", changes=differs)
        else:
            log.info("the settings were read again; nothing differs")
        self._auditing.done(caller, "ReloadConfig", request, "", differs if response.applied else "nothing differs", refusal)


def _check(found: list[Change]) -> None:
    fixed = [change.name for change in found if not change.reloadable]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} can only change with a restart, so nothing is changed now",
            hint="Restart the daemon, or take that back and reload; docs/reference/configuration.md tells which can be reloaded.",
        )
