"""The workload: the real client, and callers who run transactions, are cancelled, give up, ask, and try again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from participant_sdk.client import (
    Aborted,
    AlreadyCommitted,
    Client,
    Committed,
    HeuristicOutcome,
    OutcomeUnknown,
    RequestError,
    call,
)
from participant_sdk.client.exchange import Exchange
from participant_sdk.client.session import Session
from participant_sdk.client.transaction import Transaction
from tests.sim.clients import ABORTED, COMMITTED, Attempt, History, Work
from tests.sim.workload import draw_work
from tests.sim_engine.loop import EPOCH_MS, OUTSIDE, EngineWorld
from tests.sim_engine.network import Network
from tests.sim_engine.process import Process
from tests.sim_engine.roles import ADDRESS, ParticipantProcess, Told
from troth.errors import Reason, TrothError
from troth.v1 import client_pb2, common_pb2


@dataclass(eq=False)
class Action:
    """What one caller wants done once."""

    work: Work
    key: str
    interactive: bool
    first_attempt_ms: int
    timeout: float
    history: History
    ids: list[str] = field(default_factory=list)
    """The transactions that the client opened for it."""
    over: bool = False
    """Whether the caller knows what became of it, or can never know."""
    lives: int = 0
    """The life of the client's process in which it began."""
    on_end: Callable[[int, str], None] = lambda outcome, why: None


_NO_ANSWER = frozenset({Reason.TOO_MANY_PARTICIPANTS, Reason.CLOCK_SKEW})
"""Why some will not be told however often they ask: they name more participants than are allowed (so it cannot have committed); or
the coordinator's log was begun with a clock far behind, which is set now, and catches up by a tenth of the time that passes."""

ACTION: ContextVar[Action | None] = ContextVar("action", default=None)


class WatchedSession(Session):
    """The client's session, which notes the transactions that it opens."""

    def welcomed(self, welcome: Any) -> Any:
        """See `Session.welcomed`."""
        loop: Any = asyncio.get_running_loop()
        if welcome.resumed:
            loop.world.reach("client resumed its session")
        if any(exchange.request is not None for exchange in self._open.values()):
            loop.world.reach("unanswered request at a reconnect")
        return super().welcomed(welcome)

    def _number(self, request: Any, deadline: float) -> Exchange:
        exchange = super()._number(request, deadline)
        action = ACTION.get()
        if action is not None:
            action.ids.append(exchange.transaction_id)
            action.history.attempts[exchange.transaction_id] = Attempt(
                exchange.transaction_id, exchange.number, action.work, action.key, action.interactive,
                action.first_attempt_ms, int(action.timeout * 1000),
            )  # fmt: skip
        return exchange


class ServiceFailed(Exception):
    """A service did not do what it was asked."""


class GaveUp(Exception):
    """The caller changed its mind."""


class ClientProcess(Process):
    """A process with one client and many callers."""

    def __init__(
        self, world: EngineWorld, network: Network, name: str, participants: dict[str, ParticipantProcess], history: History
    ) -> None:
        super().__init__(world, network, name)
        self.participants = participants
        self.history = history
        self.client: Client | None = None
        self.actions: list[Action] = []
        self.pending_max = world.random.choice([2, 1000])
        self.grace_seconds = world.random.choice([0.02, 0.2, 2.0])
        self.cancel_chance = 0.0

    async def main(self) -> None:
        """Keep a client."""
        async with Client(f"{ADDRESS}:1", grace_seconds=self.grace_seconds, pending_max=self.pending_max) as client:
            self.client = client
            await asyncio.Event().wait()

    def died(self) -> None:
        """Its callers are gone, and wait for nothing."""
        self.client = None

    def open_actions(self) -> list[Action]:
        """Actions of the present life whose callers still wait, or ask."""
        return [action for action in self.actions if not action.over and self.life is not None and action.lives == self.lives]

    # ---- one action

    def begin(self, action: Action) -> bool:
        """Let a caller begin; `False` while the process is down."""
        if self.client is None or self.life is None:
            return False
        action.lives = self.lives
        self.actions.append(action)
        task = self.spawn(self._carry_out(action))
        if task is not None:
            task.add_done_callback(lambda task: self._never_began(action) if task.cancelled() else None)
        random = self.world.random
        if task is not None and random.random() < self.cancel_chance:
            delay = random.choice([0.0, 0.001, 0.005, 0.02, 0.3]) * random.random()
            self.world.after(delay, lambda: self._cancel(task))
        return True

    def _never_began(self, action: Action) -> None:
        """The caller was cancelled before its first step."""
        action.over = True

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if not task.done():
            self.world.reach("caller cancelled")
            task.cancel()

    async def _carry_out(self, action: Action) -> None:
        ACTION.set(action)
        assert self.client is not None
        try:
            committed = await (self._interactive if action.interactive else self._run)(self.client, action)
            self._told(action, committed.transaction_id, COMMITTED, "")
            self._end(action, COMMITTED, "")
        except AlreadyCommitted as already:
            self._told(action, already.outcome.transaction_id, COMMITTED, "")
            self._given(already)
            self._nothing_of(action)
            self._end(action, COMMITTED, "")
        except (Aborted, RequestError) as error:
            if isinstance(error, Aborted) and error.transaction_id:
                self._told(action, error.transaction_id, ABORTED, str(error))
            self._nothing_of(action)
            self._end(action, ABORTED, error.reason.name)
        except (ServiceFailed, GaveUp) as error:
            self._nothing_of(action)
            self._end(action, ABORTED, type(error).__name__)
        except OutcomeUnknown as unknown:
            self.world.reach("outcome unknown")
            # With a key, what was never sent has no id, and an earlier attempt is asked about.
            await self._ask(action, [unknown.transaction_id] if unknown.transaction_id else action.ids[-1:])
        except HeuristicOutcome as heuristic:
            self._told(action, heuristic.transaction_id, common_pb2.OUTCOME_HAZARD, str(heuristic))
            self._end(action, ABORTED, "HEURISTIC")
        except asyncio.CancelledError:
            # The caller is cancelled, and somebody else asks later what became of it all.
            self.spawn(self._ask(action, list(action.ids)))
        except Exception as error:
            self.world.unexpected.append(f"{self.name}: a caller got {type(error).__name__}: {error}")
            action.over = True

    async def _run(self, client: Client, action: Action) -> Committed:
        random = self.world.random
        calls = [call(name, op.name, **_arguments(op)) for name, ops in action.work.items() for op in ops]
        return await client.run(
            *calls,
            timeout=action.timeout,
            key=action.key or None,
            wait=random.choice(["logged", "logged", "complete"]),
            first_attempt_ms=action.first_attempt_ms,
            hold_read_locks=random.random() < 0.1,
            attempts=random.choice([1, 1, 3]),
        )

    async def _interactive(self, client: Client, action: Action) -> Committed:
        wait = self.world.random.choice(["logged", "complete"])
        tx = client.transaction(
            timeout=action.timeout, key=action.key or None, wait=wait, first_attempt_ms=action.first_attempt_ms
        )  # fmt: skip
        async with tx:
            for name, ops in action.work.items():
                for op in ops:
                    await self._service(tx, name, op)
            if self.world.random.random() < 0.1:
                raise GaveUp
            if action.key:
                tx.result = tx.transaction_id
        assert tx.outcome is not None
        return tx.outcome

    def _given(self, already: AlreadyCommitted) -> None:
        """Each attempt leaves its own id, so that it is seen whose result it is."""
        if already.has_result:
            self.world.reach("a result was given back under its key")
            if already.result != already.outcome.transaction_id:
                what = f"{already.outcome.transaction_id} left {already.result}"
                self.world.unexpected.append(f"{self.name}: a key gives back what another commit left: {what}")

    async def _service(self, tx: Transaction, name: str, op: common_pb2.Operation) -> None:
        """One call of a service's API; repeated once, under the same id, when its answer does not come."""
        random = self.world.random
        context = tx.context()
        calling = asyncio.ensure_future(self._call(name, context, op))
        if random.random() < 0.05:
            self.world.reach("Prepare against a running operation")
            calling.add_done_callback(lambda task: task.cancelled() or task.exception())
            tx.acknowledge(self.participants[name].guess())
            return
        try:
            async with asyncio.timeout(random.choice([0.05, 2.0])):
                told = await calling
        except (TimeoutError, ServiceFailed):
            self.world.reach("repeated interactive call")
            try:
                async with asyncio.timeout(2.0):
                    told = await self._call(name, context, op)
            except TimeoutError:
                if random.random() < 0.7:
                    raise ServiceFailed("no answer") from None
                self.world.reach("went on behind a call of which nothing came back")
                told = [client_pb2.AcknowledgedOperations(unknown=True)]
        for one in told:
            tx.acknowledge(one)

    async def _call(self, name: str, context: common_pb2.TransactionContext, op: common_pb2.Operation) -> Told:
        """A unary call of a service."""
        process, network, loop = self.participants[name], self.network, self.world.loop
        answer: asyncio.Future[Told] = loop.create_future()
        serving: list[asyncio.Task[Any]] = []

        def back(told: Told | None, error: str) -> None:
            def arrive() -> None:
                if answer.done():
                    return
                if told is not None:
                    answer.set_result(told)
                else:
                    answer.set_exception(ServiceFailed(error))

            network.at(network.arrival(name, self.name), arrive)

        def served(task: asyncio.Task[Told]) -> None:
            error = "cancelled" if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, TrothError | str):
                self.world.unexpected.append(f"{name}: a service failed with {error!r}")
            back(None if error is not None else task.result(), str(error))

        def arrived() -> None:
            life = process.life
            if life is None or not process.ready_to_serve():
                back(None, "the service is down")
                return
            life.on_end.append(lambda: back(None, "the service died"))
            task = loop.spawn(life, process.serve(context, op.name, _arguments(op)))
            serving.append(task)
            task.add_done_callback(served, context=OUTSIDE)

        network.at(network.arrival(self.name, name), arrived)
        try:
            return await answer
        except asyncio.CancelledError:
            network.at(network.arrival(self.name, name), lambda: [task.cancel() for task in serving if process.life])
            raise

    # ---- what callers learn

    def _told(self, action: Action, transaction_id: str, outcome: int, why: str) -> None:
        self.world.say(self.name, f"TOLD {transaction_id} {outcome} {why}")
        self.history.tell(transaction_id, outcome)
        if outcome == COMMITTED and transaction_id in action.ids:
            for other in action.ids:
                if other != transaction_id:
                    self.history.tell(other, ABORTED)
        elif outcome == COMMITTED and not action.key:
            self.world.unexpected.append(f"{self.name}: told of {transaction_id}, and asked about {action.ids}")

    def _nothing_of(self, action: Action) -> None:
        for transaction_id in action.ids:
            self.history.tell(transaction_id, ABORTED)

    def _end(self, action: Action, outcome: int, why: str) -> None:
        action.over = True
        action.on_end(outcome, why)

    async def _ask(self, action: Action, transaction_ids: list[str]) -> None:
        """Ask until every one of them is known."""
        outcome = ABORTED
        for transaction_id in transaction_ids:
            outcome = await self._ask_one(action, transaction_id)
        self._end(action, outcome, "asked")

    async def _ask_one(self, action: Action, transaction_id: str) -> int:
        assert self.client is not None
        while True:
            try:
                done = await self.client.get(
                    transaction_id, participants=list(action.work), first_attempt_ms=action.first_attempt_ms, timeout=3.0,
                    key=action.key or None,
                )  # fmt: skip
            except Aborted as aborted:
                self._told(action, aborted.transaction_id, ABORTED, f"by get: {aborted}")
                return ABORTED
            except RequestError as refused:  # the request that is asked about was, and never ran
                self._told(action, transaction_id, ABORTED, f"by get: {refused}")
                return ABORTED
            except OutcomeUnknown as unknown:
                if unknown.reason is Reason.EXPIRED:
                    self._told(action, transaction_id, common_pb2.OUTCOME_EXPIRED, "by get")
                    return common_pb2.OUTCOME_EXPIRED
                if unknown.reason in _NO_ANSWER:
                    return common_pb2.OUTCOME_IN_DOUBT
                await asyncio.sleep(self.world.random.uniform(0.2, 1.0))
            else:
                self.world.reach("client asked and was told")
                self.history.tell(done.transaction_id, COMMITTED)
                return COMMITTED


def _arguments(op: common_pb2.Operation) -> dict[str, Any]:
    account, amount = json.loads(op.arguments)
    return {"account": account} if op.name == "read" else {"account": account, "amount": amount}


class EngineWorkload:
    """Draws transactions as the other level does, and gives them to callers."""

    def __init__(self, world: EngineWorld, clients: list[ClientProcess], accounts: dict[str, list[str]]) -> None:
        self.world = world
        self.clients = clients
        self.accounts = accounts
        self.started = 0
        self._keys = 0

    def schedule(self, count: int, seconds: float) -> None:
        """Spread transactions over a time."""
        for _ in range(count):
            self.world.after(self.world.random.uniform(0.0, seconds), self._one)

    def _one(self) -> None:
        random = self.world.random
        work = draw_work(random, self.accounts)
        key = ""
        if random.random() < 0.4:
            self._keys += 1
            key = f"k{self._keys}"
        self._attempt(work, key, random.random() < 0.4, self.world.now, 0)

    def _attempt(self, work: Work, key: str, interactive: bool, began: float, retries: int) -> None:
        random = self.world.random
        client = random.choice(self.clients)
        timeout = random.choice([0.05, 0.4, 2.0])
        action = Action(work, key, interactive, EPOCH_MS + int(began * 1000), timeout, client.history)

        def ended(outcome: int, why: str) -> None:
            retry = outcome == ABORTED and retries < 3
            again = key and outcome in (COMMITTED, ABORTED) and retries < 3 and random.random() < 0.3
            if retry or again:
                self.world.reach("key retried after a commit" if again and outcome == COMMITTED else "retry after an abort")
                self.world.after(random.uniform(0.0, 0.2), lambda: self._attempt(work, key, interactive, began, retries + 1))

        action.on_end = ended
        if not client.begin(action):
            return
        self.started += 1
        if key and not interactive and random.random() < 0.3:
            self.world.reach("key joined while running")
            self.world.after(random.uniform(0.0, 0.05), lambda: self._attempt(work, key, False, began, 3))
