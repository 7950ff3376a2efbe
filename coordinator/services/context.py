"""What the services share: of a node the limits and counters, of a shard the settings, the identity of this boot, and the way into
the engine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

from coordinator.config import Config
from coordinator.core import effects
from coordinator.core.settings import CoreSettings
from coordinator.history.history import History, bounds_of
from coordinator.identity.auditing import Auditing
from coordinator.identity.gate import Gate
from coordinator.identity.who import Witness
from coordinator.services.crowd import Calls, Watches
from coordinator.services.outboxes import Outboxes
from coordinator.shell_settings import ShellSettings
from troth import features, payload_keys
from troth.errors import Reason
from troth.quiet import Quiet
from troth.ready import Core, Event
from troth.v1 import admin_pb2, common_pb2, record_pb2

if TYPE_CHECKING:
    from coordinator.cell.questions import Questions
    from coordinator.reloading import Reloading


class CoreCounters(Protocol):
    """What the core counts."""

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""


class CoordinatorCoreView(Core, Protocol):
    """What the shell reads from the coordinator's core, beyond what the engine needs. Valid after `recover`."""

    @property
    def epoch(self) -> int:
        """The epoch of this boot."""

    @property
    def now_ms(self) -> int:
        """The durable clock as of the last step."""

    @property
    def log_id(self) -> str:
        """The identity of the log."""

    @property
    def has_lost(self) -> bool:
        """Whether the log has lost what participants have heard, and no operator has accepted that."""

    @property
    def counters(self) -> CoreCounters:
        """What was done since the start."""

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused."""

    @property
    def unary_session(self) -> str:
        """The session of unary calls."""

    def owner_of(self, transaction_id: str) -> str | None:
        """Who began a transaction; `None` when it is not known here."""

    def invite_by(self, invites: Callable[[str, str], bool]) -> None:
        """Have somebody say whether an identity may have a participant work."""

    def reviews(self) -> Sequence[record_pb2.Review]:
        """Orders that wait for a second person, and have not expired."""

    def use(self, settings: CoreSettings) -> None:
        """Have other settings from now on, of those that can change while it runs."""

    def undecided(self) -> int:
        """Transactions without a decision."""

    def fill(self) -> dict[str, int]:
        """How much of each limit is in use, by the setting's name."""


@dataclass(slots=True)
class ShellCounters:
    """What the services did since the start."""

    unary_calls: int = 0
    participant_streams: int = 0
    client_streams: int = 0
    sessions_resumed: int = 0
    malformed_frames: int = 0
    overloaded_streams: int = 0
    internal_errors: int = 0
    descriptor_shortages: int = 0
    unauthenticated: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


class Common:
    """Shared by all shards of one node: its limits hold for all of them together. Making it raises `ConfigError` for files of
    identities or payload keys that cannot be used."""

    def __init__(self, shell: ShellSettings) -> None:
        self.shell = shell
        self.counters = ShellCounters()
        self.witness = Witness(shell)
        self.quiet = Quiet()
        """Lines that a peer can cause are told through it."""
        self.gate = Gate(shell, self.witness, self.quiet)
        self.auditing = Auditing(shell, self.gate, self.witness)
        self.keyring = payload_keys.keyring(shell.payload_keys)
        """What seals the payload in logs; `None` where it is in clear."""
        self.outboxes = Outboxes(shell.outboxes_bytes_max)
        self.calls, self.watches = Calls(shell), Watches(shell)
        self.directory: common_pb2.Directory | None = None
        """Where the shards of the cell are; `None` for a coordinator that is alone."""
        self.otherwise: Mapping[str, Sequence[str]] = {}
        """By node of the cell: the settings that it has otherwise than this one, although they should agree."""
        self.ready = False
        """Whether it takes new work, as the health service says."""
        self.tasks: set[asyncio.Task[None]] = set()
        """Little things that are under way, kept so that they are not collected."""
        self.history: History | None = None
        """What is over, for people; `None` where none is kept."""
        self.over: list[Callable[[effects.Over], None]] = []
        """Who hears of each transaction that is over."""
        self.refused: list[Callable[[Reason, bool], None]] = []
        """Who hears of each request that is refused before it is a transaction."""
        self.shard_of_key: Callable[[str], str] | None = None
        """The shard that a key belongs to; `None` where there is only one."""
        self.questions: Questions | None = None
        """Passes questions on to other shards; `None` where there is only one."""
        self.reloading: Reloading | None = None
        """Reads the settings again; `None` in a process that has not read any."""

    @property
    def access(self) -> str:
        """Who may do what here, in one word."""
        return "insecure" if self.shell.insecure else self.gate.mode.value

    def features(self) -> list[admin_pb2.FeatureStatus]:
        """What this version has that the one before it has not."""
        held = features.held_back(self.shell.features_held_back)
        return [
            admin_pb2.FeatureStatus(name=one.name, where=one.where.value, held_back=one.name in held, what=one.what)
            for one in features.FEATURES
        ]

    def use(self, config: Config) -> None:
        """Have other settings from now on; of those that can change while it runs (`coordinator.reloading`)."""
        shell = self.shell = config.shell
        logging.getLogger("troth").setLevel(shell.log_level.upper())
        self.calls.use(shell)
        self.watches.use(shell)
        self.gate.use(shell)
        self.outboxes.use(shell.outboxes_bytes_max)
        if self.history is not None:
            self.history.bounds = bounds_of(config)

    def keep_history(self, history: History | None) -> None:
        """Let a history hear of what is over."""
        if history is not None:
            self.history = history
            self.over.append(history.add)

    def tell_over(self, effect: effects.Over) -> None:
        """A transaction is over."""
        for hear in self.over:
            hear(effect)

    def tell_refused(self, reason: Reason, by_caller: bool) -> None:
        """A request was refused before it was a transaction, or a client's stream before it could ask for one."""
        for hear in self.refused:
            hear(reason, by_caller)


@dataclass(slots=True)
class Context:
    """Shared by all services of one shard."""

    config: Config
    core: CoordinatorCoreView
    nonce: str
    submit: Callable[[Event], None]
    submit_all: Callable[[Sequence[Event]], None]
    backlog: Callable[[], int]
    """Events and appends that wait in the engine."""
    position: Callable[[], int]
    """The seq of the newest durable record."""
    common: Common
    counters: ShellCounters = field(init=False)
    quiet: Quiet = field(init=False)
    outboxes: Outboxes = field(init=False)
    calls: Calls = field(init=False)
    watches: Watches = field(init=False)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once this life has begun, or its start was refused: until then only participants are heard."""
    stream_ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a stream is over."""

    def __post_init__(self) -> None:
        common = self.common
        self.counters, self.quiet, self.outboxes, self.watches = common.counters, common.quiet, common.outboxes, common.watches
        self.calls = common.calls

    @property
    def session_prefix(self) -> str:
        """What the session names of this boot begin with."""
        return f"{self.config.shell.name}.{self.core.epoch}.{self.nonce}"

    def now_ms(self) -> int:
        """This machine's wall clock, for peers that compare it with theirs."""
        return time.time_ns() // 1_000_000
