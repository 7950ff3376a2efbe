"""One shard: a coordinator, whole but for its port. One core, one engine, one log, and the streams of its peers.

A daemon with its log in a file has one shard; a node of a cell has some, each for as long as it owns the shard's log. Start: open
the log, recover. End: refuse new work, wait for what is undecided, say Goodbye to every stream, close the log. What is decided and
not yet acknowledged goes on with the next owner.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from coordinator.config import Config
from coordinator.core import effects, events
from coordinator.core.model import outcome_name
from coordinator.core.verdict import decided
from coordinator.services import status
from coordinator.services.admin import Admin
from coordinator.services.callers import Callers
from coordinator.services.context import Common, Context, CoordinatorCoreView
from coordinator.services.participants import Participants
from coordinator.services.sessions import Sessions
from coordinator.services.transactions import TransactionEffects, Transactions, UnarySession
from troth.engine import Engine, EngineCounters
from troth.errors import ProtocolError, Reason, TrothError
from troth.log.contract import Log
from troth.logs import get_logger
from troth.ready import Effect, Event
from troth.v1 import admin_pb2, common_pb2

log = get_logger("troth.server")

CLOCKS_APART_SECONDS = 60
"""From here on an operator is told that the log's clock and the machine's differ."""
FROM_PARTICIPANTS = (events.HelloReceived, events.ReportsReceived, events.FromParticipant)
DRAIN_POLL_SECONDS = 0.05


class Shard:
    """One running coordinator. `failed` is done when it must stop at once."""

    def __init__(
        self, config: Config, core: CoordinatorCoreView, coordinator_log: Log, nonce: str, common: Common | None = None
    ) -> None:
        self.config = config
        self.name = config.shell.name
        self._core = core
        common = common or Common(config.shell)
        engine = self._engine = Engine(
            "coordinator", core, coordinator_log, self._perform, on_violation=self._violated, keyring=common.keyring
        )
        self._context = Context(
            config, core, nonce, engine.submit, engine.submit_all, engine.backlog, lambda: engine.position, common
        )
        gate = self._context.common.gate
        if gate.policy is not None:
            core.invite_by(gate.invites)
        self._sessions = Sessions(self._context)
        self._unary = UnarySession(self._context)
        self.callers = Callers(self._context, self._sessions, self._unary)
        """Who began what."""
        self._participants = Participants(self._context, self.callers.answer)
        self._transactions = Transactions(self._context, self._unary)
        self._answers = TransactionEffects(self._sessions, self._unary)
        self._admin = Admin(self._context, self.counters, lambda: self.on_readiness())
        self._performers = self._all_performers()
        self.on_readiness: Callable[[], None] = lambda: None
        """Called when it may be ready otherwise than before."""
        self.hurry = asyncio.Event()
        """Set by a second signal: do not wait for anybody."""
        self.gone = asyncio.Event()
        """Set when nobody is answered any more: the node that has it now answers."""

    # ---- what it is

    @property
    def failed(self) -> asyncio.Future[TrothError]:
        """Gets the error that ended the engine."""
        return self._engine.failed

    @property
    def epoch(self) -> int:
        """The epoch of this life; valid after `begin`."""
        return self._core.epoch

    @property
    def context(self) -> Context:
        """What its services share."""
        return self._context

    @property
    def sessions(self) -> Sessions:
        """The streams of clients."""
        return self._sessions

    @property
    def participants(self) -> Participants:
        """The streams of participants."""
        return self._participants

    @property
    def transactions(self) -> Transactions:
        """Unary calls of clients."""
        return self._transactions

    @property
    def admin(self) -> Admin:
        """Unary calls of operators."""
        return self._admin

    @property
    def engine_counters(self) -> EngineCounters:
        """What its engine did."""
        return self._engine.counters

    def log_bytes(self) -> int | None:
        """How large its log is on this machine; `None` where it is elsewhere."""
        return None

    @property
    def ready(self) -> bool:
        """Whether it takes new work."""
        return not (self._core.is_draining or self._core.has_lost)

    @property
    def undecided(self) -> int:
        """Transactions without a decision."""
        return self._core.undecided()

    def counters(self) -> dict[str, int]:
        """Everything that is counted, by name; what is counted for the whole node is the node's."""
        engine = self._engine.counters
        return {
            **self._core.counters.as_dict(),
            **self._context.counters.as_dict(),
            "records": engine.records,
            "forced_records": engine.forced_records,
            "batches": engine.batches,
            "syncs": engine.syncs,
            "protocol_errors": engine.protocol_errors,
            "participant_streams_open": self._participants.open_streams(),
            "client_streams_open": self._sessions.open_streams(),
            "undecided": self._core.undecided(),
        }

    def use(self, config: Config) -> None:
        """Have other settings from now on."""
        self.config = self._context.config = config
        self._core.use(config.core)

    def tell_directory(self) -> None:
        """Tell every peer where the shards of the cell are."""
        self._participants.tell_directory()
        self._sessions.tell_directory()

    # ---- beginning

    async def begin(self) -> None:
        """Open the log and recover. Raises `LogError`."""
        await self._engine.start()

    async def epoch_durable(self) -> None:
        """Wait until the core answers: it holds everything back until participants were heard, and EpochStarted is durable. Then
        clients are let in. Raises `TrothError`."""
        asking = asyncio.ensure_future(self._admin.ask(admin_pb2.ListParticipantsRequest()))
        await asyncio.wait((asking, self.failed), return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            asking.cancel()
            raise self.failed.result()
        self._compare_clocks()
        self._context.begun.set()

    def _compare_clocks(self) -> None:
        """Tell when the wall clock is not that of the log: one of them is wrong, or the coordinator was down for long."""
        ahead_seconds = (self._context.now_ms() - self._core.now_ms) // 1000
        if abs(ahead_seconds) > CLOCKS_APART_SECONDS:
            log.warning(
                "the wall clock is far from the log's: outcomes and keys are kept by the log's clock, which catches up slowly;"
                " if the wall clock is wrong, set it right",
                wall_clock_ahead_seconds=ahead_seconds,
            )

    # ---- effects

    def _all_performers(self) -> dict[type, Callable[[Any], None]]:
        return {
            effects.Send: self._participants.send,
            effects.SendWatermark: self._participants.send_watermark,
            effects.Welcomed: self._participants.welcomed,
            effects.MayBegin: self._participants.may_begin,
            effects.Rejected: self._participants.rejected,
            effects.Begun: self._answers.begun,
            effects.Answered: self._answers.answered,
            effects.Got: lambda effect: effect.ticket(effect.answer),
            effects.Watched: lambda effect: effect.ticket(effect.response, effect.last),
            effects.LossChanged: self._loss_changed,
            effects.Administered: lambda effect: effect.ticket(effect.response),
            effects.Contradicted: _tell_contradiction,
            effects.Expired: self._admin.expired,
            effects.Over: self._context.common.tell_over,
            effects.Refused: lambda effect: self._context.common.tell_refused(effect.reason, effect.by_caller),
        }

    def _perform(self, effect: Effect) -> None:
        try:
            self._performers[type(effect)](effect)
        except Exception as error:
            # One peer is not told something, which every peer must survive; the daemon need not end for that.
            self._context.counters.internal_errors += 1
            self._context.quiet.tell(log.error, "an effect was not carried out", kind=type(effect).__name__, exc_info=error)

    def _violated(self, event: Event, error: ProtocolError) -> None:
        """The core refused an event; nothing has changed, and whoever waits for an answer is told."""
        if isinstance(event, FROM_PARTICIPANTS):
            self._participants.violated(event.stream, error)
            return
        self._context.quiet.tell(log.warning, "protocol violation", event_kind=type(event).__name__, error=error.message)
        if hasattr(event, "ticket"):
            fail = getattr(event.ticket, "fail", None)
            if fail is not None:
                fail(error)
        elif hasattr(event, "request") and hasattr(event, "session"):
            self._answers.violated(event, error)

    def _loss_changed(self, _: effects.LossChanged) -> None:
        if self._core.has_lost:
            log.critical(
                "the log has lost what participants have heard: nothing new begins until that is accepted",
                hint="troth participants; then how-to/operate-a-coordinator, 'a lost or old log'",
            )
        self.on_readiness()

    # ---- ending

    async def drain(self) -> None:
        """Refuse new work and wait, up to `drain_seconds`, until nothing is undecided."""
        seconds = self.config.shell.drain_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._admin.ask(admin_pb2.DrainRequest())
                self.on_readiness()
                while self._core.undecided() and not self.hurry.is_set() and not self.failed.done():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.hurry.wait(), DRAIN_POLL_SECONDS)
        if self._core.undecided():
            log.warning("transactions are left undecided; they abort", undecided=self._core.undecided())

    async def say_goodbye(self) -> None:
        """End every stream with a Goodbye, and give each some time to take it."""
        self.end_streams(status.cause(Reason.DRAINING, f"coordinator {self.name} is going down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.shell.goodbye_seconds):
                while self._participants.open_streams() + self._sessions.open_streams():
                    self._context.stream_ended.clear()
                    await self._context.stream_ended.wait()

    def end_streams(self, cause: common_pb2.Cause) -> None:
        """Drop what waits for peers, and say Goodbye to all of them."""
        self._participants.end_all(cause)
        self._sessions.end_all(cause)

    async def close(self) -> None:
        """Make durable what is queued, and let go of the log. After a failure nothing more is written."""
        self._sessions.close()
        with contextlib.suppress(TrothError):
            await self._engine.stop()


def _tell_contradiction(effect: effects.Contradicted) -> None:
    report = effect.report
    known = {None: "UNKNOWN", True: "COMMIT", False: "ABORT"}[decided([report])]
    log.error(
        "a branch ended, or may have ended, otherwise than was decided; see `troth txn explain`",
        transaction_id=report.transaction_id, participant=report.participant, outcome=outcome_name(effect.outcome),
        decided=known, branch=outcome_name(report.branch_outcome), who=report.who, why=report.why,
    )  # fmt: skip
