"""Slips in the functions of a service's author: each fails that one call, and the participant goes on."""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ledger import LedgerResource, Store

from participant_sdk import LogBranch, LogResource, Participant, Refuse, SqliteResource, border, drivers
from participant_sdk.border import Raised
from participant_sdk.causes import CODE_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX, cause_of
from participant_sdk.client import call
from participant_sdk.resources.contract import Begun, Performed, Prepared
from participant_sdk.testing.cluster import Cluster
from troth import logs
from troth.backoff import Backoff
from troth.errors import Aborted, Reason, RequestError

SURROGATE = "cut in two: \ud83d"
SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY NOT NULL, balance INTEGER NOT NULL) WITHOUT ROWID"


class Codes(enum.Enum):
    NO = "NO"


class Unmade(Refuse):
    """Never became what its parent is."""

    def __init__(self) -> None:
        pass


class Renamed(Refuse):
    """Has a reason of its own, where ours was."""

    def __init__(self) -> None:
        super().__init__("NO_FUNDS")
        self.reason = "overdrawn"  # type: ignore[assignment]  # the slip


class Speechless(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class Unwritable:
    def __str__(self) -> str:
        raise ValueError("no text")


def throw(error: BaseException) -> Callable[[], Any]:
    def slip() -> Any:
        raise error

    return slip


def endless() -> Any:
    return endless()


SLIPS: dict[str, tuple[Callable[[], Any], Reason, str]] = {
    "StopIteration": (lambda: next(iter(())), Reason.OPERATION_FAILED, ""),
    "StopAsyncIteration": (throw(StopAsyncIteration()), Reason.OPERATION_FAILED, ""),
    "CancelledError": (throw(asyncio.CancelledError()), Reason.OPERATION_FAILED, ""),
    "SystemExit": (throw(SystemExit(1)), Reason.OPERATION_FAILED, ""),
    "KeyboardInterrupt": (throw(KeyboardInterrupt()), Reason.OPERATION_FAILED, ""),
    "GeneratorExit": (throw(GeneratorExit()), Reason.OPERATION_FAILED, ""),
    "a group": (throw(BaseExceptionGroup("two", [SystemExit(1), ValueError("x")])), Reason.OPERATION_FAILED, ""),
    "RecursionError": (endless, Reason.OPERATION_FAILED, ""),
    "a surrogate in an exception": (throw(ValueError(SURROGATE)), Reason.OPERATION_FAILED, ""),
    "an exception without a text": (throw(Speechless()), Reason.OPERATION_FAILED, ""),
    "a surrogate in a refusal": (throw(Refuse(SURROGATE, SURROGATE)), Reason.REFUSED, "cut in two: \\ud83d"),
    "a number for a code": (throw(Refuse(404, "not there")), Reason.REFUSED, "404"),  # type: ignore[arg-type]  # the slip
    "an enum for a code": (throw(Refuse(Codes.NO)), Reason.REFUSED, "Codes.NO"),  # type: ignore[arg-type]  # the slip
    "an exception for a message": (throw(Refuse("BAD", ValueError("x"))), Reason.REFUSED, "BAD"),  # type: ignore[arg-type]  # the slip
    "a message without a text": (throw(Refuse("BAD", Unwritable())), Reason.OPERATION_FAILED, ""),  # type: ignore[arg-type]  # the slip
    "a subclass never made": (throw(Unmade()), Reason.OPERATION_FAILED, ""),
    "a subclass with another reason": (throw(Renamed()), Reason.OPERATION_FAILED, ""),
    "a surrogate for a result": (lambda: SURROGATE, Reason.BAD_RESULT, ""),
    "a result that is no value": (lambda: {Unwritable(): 1}, Reason.BAD_RESULT, ""),
}


def sqlite(directory: Path) -> Participant:
    resource = SqliteResource(directory / "bank.db", schema=SCHEMA)
    bank = Participant("bank", resource=resource, data_directory=directory, coordinator="127.0.0.1:7420")
    return with_plain_operations(bank)


def logged(directory: Path) -> Participant:
    return with_plain_operations(
        Participant("bank", resource=LogResource(), data_directory=directory, coordinator="127.0.0.1:7420")
    )


def external(directory: Path) -> Participant:
    resource = RaisingLedger(Store())
    return with_plain_operations(
        Participant("bank", resource=resource, data_directory=directory, coordinator="127.0.0.1:7420")
    )


def with_plain_operations(bank: Participant) -> Participant:
    @bank.operation(locks=lambda slip: SLIPS[slip][0]() if slip == "of locks" else ["one"])
    def perform(db: Any, *, slip: str) -> Any:
        return SLIPS[slip][0]()

    @bank.operation(locks=["one"])
    def work(db: Any) -> int:
        return 1

    return bank


def asynchronous(directory: Path) -> Participant:
    bank = Participant("bank", resource=LogResource(), data_directory=directory, coordinator="127.0.0.1:7420")

    @bank.operation(locks=["one"])
    async def perform(branch: LogBranch, *, slip: str) -> Any:
        await asyncio.sleep(0)
        return SLIPS[slip][0]()

    @bank.operation(locks=["one"])
    async def work(branch: LogBranch) -> int:
        await asyncio.sleep(0)
        return 1

    return bank


class RaisingLedger(LedgerResource):
    """A resource that does not take in what its operations raise, as its contract asks it to."""

    async def execute(self, resource_branch: str, operation: Any) -> Any:
        self._views[resource_branch].changes["touched"] = 1
        return Performed(self._operations.bind(operation)(self._views[resource_branch]))


MAKERS = {"sqlite": sqlite, "logged": logged, "asynchronous": asynchronous, "external": external}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "RETRY", Backoff(0.005, 0.01))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
async def test_a_slip_in_an_operation_fails_that_operation(make: Callable[[Path], Participant], tmp_path: Path) -> None:
    async with Cluster(lambda: make(tmp_path)) as cluster:
        for slip, (_, reason, code) in SLIPS.items():
            with pytest.raises(Aborted) as caught:
                await cluster.run(call("bank", "perform", slip=slip), call("bank", "work"))
            told = (caught.value.reason, caught.value.code, caught.value.participant)
            assert told == (reason, code, "bank"), slip
            assert (await cluster.run(call("bank", "work"))).results == {"bank": [1]}, slip
        assert not cluster["bank"]._running().ended.done()


@pytest.mark.parametrize("make", [sqlite, logged], ids=["sqlite", "logged"])
async def test_a_slip_in_a_read_reaches_its_caller_only(make: Callable[[Path], Participant], tmp_path: Path) -> None:
    async with Cluster(lambda: make(tmp_path)) as cluster:
        bank = cluster["bank"]
        for slip, (function, reason, _) in SLIPS.items():
            if reason is Reason.BAD_RESULT:
                continue  # the caller is in this process: it may get whatever it likes
            for use in (bank.read, bank.local):
                with pytest.raises(Exception) as caught:
                    await use(lambda db, function=function: function())
                assert not isinstance(caught.value, StopIteration), slip
            assert (await cluster.run(call("bank", "work"))).results == {"bank": [1]}, slip


async def test_a_coroutine_that_reads_may_slip_too(tmp_path: Path) -> None:
    async def slip(branch: LogBranch) -> None:
        raise SystemExit(1)

    async with Cluster(lambda: logged(tmp_path)) as cluster:
        with pytest.raises(RuntimeError, match="SystemExit"):
            await cluster["bank"].read(slip)


@pytest.mark.parametrize("slip", [name for name, (_, reason, _) in SLIPS.items() if reason is not Reason.BAD_RESULT])
async def test_a_slip_in_a_lock_declaration_refuses_the_call(slip: str, tmp_path: Path) -> None:
    def make() -> Participant:
        bank = logged(tmp_path)
        bank.operation(locks=lambda: SLIPS[slip][0](), name="fragile")(lambda_operation)
        return bank

    async with Cluster(make) as cluster:
        with pytest.raises(Aborted) as caught:
            await cluster.run(call("bank", "fragile"))
        assert caught.value.reason is Reason.OPERATION_FAILED
        assert (await cluster.run(call("bank", "work"))).results == {"bank": [1]}


def lambda_operation(branch: LogBranch) -> None:
    """Does nothing."""


@pytest.mark.parametrize("keys", [[SURROGATE], [1], [Unwritable()], [""]], ids=["surrogate", "number", "object", "empty"])
async def test_a_key_that_is_no_text_refuses_the_call(keys: list[Any], tmp_path: Path) -> None:
    def make() -> Participant:
        bank = logged(tmp_path)
        bank.operation(locks=lambda: keys, name="fragile")(lambda_operation)
        return bank

    async with Cluster(make) as cluster:
        with pytest.raises(Aborted) as caught:
            await cluster.run(call("bank", "fragile"))
        assert caught.value.reason is Reason.OPERATION_FAILED


# ---- hooks


def plain(function: Callable[[], Any]) -> Callable[..., Any]:
    return lambda transaction_id, operations: function()


def coroutine(function: Callable[[], Any]) -> Callable[..., Awaitable[Any]]:
    async def hook(transaction_id: str, operations: Any) -> Any:
        await asyncio.sleep(0)
        return function()

    return hook


@pytest.mark.parametrize("kind", [plain, coroutine])
async def test_a_hook_that_slips_is_called_again(kind: Callable[..., Any], tmp_path: Path) -> None:
    slips = [function for function, reason, _ in SLIPS.values() if reason is not Reason.BAD_RESULT]
    left = list(slips)

    def next_slip() -> None:
        if left:
            left.pop()()

    def make() -> Participant:
        resource = LogResource(on_commit=kind(next_slip))
        return with_plain_operations(
            Participant("bank", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:7420")
        )

    async with Cluster(make) as cluster:
        assert not (await cluster.run(call("bank", "work"), wait="complete")).pending
    assert not left


async def test_a_hook_that_is_cancelled_by_its_own_callee_is_called_again(tmp_path: Path) -> None:
    """As grpc.aio and task groups do: nobody has cancelled the hook."""
    calls: list[str] = []

    async def deliver(transaction_id: str, operations: Any) -> None:
        calls.append(transaction_id)
        if len(calls) == 1:
            inner = asyncio.ensure_future(asyncio.sleep(10))
            asyncio.get_running_loop().call_soon(inner.cancel)
            await inner
        if len(calls) == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(10)

    def make() -> Participant:
        resource = LogResource(on_commit=deliver)
        return with_plain_operations(
            Participant("bank", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:7420")
        )

    async with Cluster(make) as cluster:
        assert not (await cluster.run(call("bank", "work"), wait="complete")).pending
    assert len(calls) == 3


async def test_closing_ends_a_hook_that_never_ends(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def deliver(transaction_id: str, operations: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    def make() -> Participant:
        resource = LogResource(on_commit=deliver)
        return with_plain_operations(
            Participant("bank", resource=resource, data_directory=tmp_path, coordinator="127.0.0.1:7420")
        )

    async with Cluster(make) as cluster:
        running = asyncio.create_task(cluster.run(call("bank", "work")))
        await begun.wait()
        assert not ended.is_set()
    assert ended.is_set()
    running.cancel()


# ---- resources of the contract


@pytest.mark.parametrize("step", ["begin", "prepare", "commit", "forget"])
async def test_a_resource_that_raises_or_answers_nothing_is_asked_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Any] = [ValueError(SURROGATE), asyncio.CancelledError(), SystemExit(1), None, "done"]
    method = getattr(LedgerResource, step)

    async def faulty(self: LedgerResource, *arguments: Any, **options: Any) -> Any:
        if not faults:
            return await method(self, *arguments, **options)
        fault = faults.pop(0)
        if isinstance(fault, BaseException):
            raise fault
        return fault

    monkeypatch.setattr(LedgerResource, step, faulty)

    def make() -> Participant:
        return external(tmp_path)

    async with Cluster(make) as cluster:
        while faults:
            try:
                assert (await cluster.run(call("bank", "work"), wait="complete")).results == {"bank": [1]}
            except Aborted as aborted:
                assert (aborted.reason, aborted.retryable) == (Reason.PARTICIPANT_AWAY, True)
        assert (await cluster.run(call("bank", "work"), wait="complete")).results == {"bank": [1]}


async def test_a_resource_that_prepares_nonsense_votes_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(self: LedgerResource, resource_branch: str) -> Prepared:
        return Prepared(True, undo=[object()])  # type: ignore[list-item]  # the slip

    monkeypatch.setattr(LedgerResource, "prepare", nonsense)
    async with Cluster(lambda: external(tmp_path)) as cluster:
        with pytest.raises(Aborted) as caught:
            await cluster.run(call("bank", "work"))
    assert caught.value.reason is Reason.OPERATION_FAILED


async def test_a_branch_without_a_name_votes_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(self: LedgerResource, transaction_id: str) -> Begun:
        return Begun(None)  # type: ignore[arg-type]  # the slip

    monkeypatch.setattr(LedgerResource, "begin", nonsense)
    async with Cluster(lambda: external(tmp_path)) as cluster:
        with pytest.raises(Aborted) as caught:
            await cluster.run(call("bank", "work"))
    assert caught.value.reason is Reason.OPERATION_FAILED


# ---- what is said


async def test_the_log_has_where_it_failed_and_the_client_has_not(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    def listen(level: str, event: str, fields: dict[str, Any]) -> None:
        if event == "operation failed":
            heard.append(fields)

    with logs.heard_by(listen):
        async with Cluster(lambda: sqlite(tmp_path)) as cluster:
            with pytest.raises(Aborted) as caught:
                await cluster.run(call("bank", "perform", slip="a surrogate in an exception"))
    (fields,) = heard
    assert (fields["participant"], fields["operation"]) == ("bank", "perform")
    assert fields["error_id"] in caught.value.message and "cut in two" not in caught.value.message
    assert isinstance(fields["exc_info"], ValueError)


async def test_what_is_cancelled_before_it_begins_is_not_left_for_the_collector() -> None:
    """Python tells of a coroutine that nobody has begun, when it is collected: in whatever runs then."""

    async def work() -> None:
        pytest.fail("it begins")

    begun = work()
    waiting = asyncio.ensure_future(border.awaited(begun))
    await asyncio.sleep(0)  # it has made the task, which has had no turn yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert inspect.getcoroutinestate(begun) == inspect.CORO_CLOSED


async def test_a_resource_that_answers_for_itself_is_asked_in_the_same_task() -> None:
    """What it raises is a value all the same, also a cancellation that nobody has asked for; our own goes on."""

    async def raises(error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    async def asking() -> object:
        return asyncio.current_task()

    assert await border.answered(asking) is asyncio.current_task()
    for error in (LookupError("a bug"), asyncio.CancelledError(), StopAsyncIteration(), SystemExit(3)):
        told = await border.answered(raises, error)
        assert type(told) is Raised and told.error is error

    waiting = asyncio.ensure_future(border.answered(asyncio.sleep, 3600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_long_texts_are_cut() -> None:
    cause = cause_of(Refuse("C" * 1_000, "m" * 100_000))
    assert (len(cause.code), len(cause.message)) == (CODE_CHARACTERS_MAX, MESSAGE_CHARACTERS_MAX)


def test_what_cannot_be_written_is_refused_by_the_caller_already() -> None:
    for wrong in ({"name": SURROGATE}, {SURROGATE: 1}):
        with pytest.raises(RequestError) as caught:
            call("bank", "work", **wrong)
        assert caught.value.reason is Reason.BAD_ARGUMENTS
    with pytest.raises(RequestError) as caught:
        call("bank", SURROGATE)
    assert caught.value.reason is Reason.INVALID_NAME
