"""What a transaction came to is left under its key with the commit, and given to whoever comes with the key again."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import pickle
from collections import namedtuple
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from fake_coordinator import COMMITTED, FakeCoordinator, FakeStream

from participant_sdk.client import AlreadyCommitted, Client, RequestError, current_transaction, transactional
from participant_sdk.client.kept import decoded, maker
from participant_sdk.codec import Coded, PayloadCodec
from troth import features
from troth.errors import Reason
from troth.v1 import client_pb2, common_pb2

HOLDER = "c1.1.9f2c4e1a.9.9"


class Keeper:
    """What a coordinator keeps under keys; it answers as one does."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._keys: dict[int, str] = {}
        self.kept: dict[str, bytes] = {}
        self.commits: list[client_pb2.CommitRequest] = []
        coordinator.capabilities = [features.KEY_RESULTS]
        coordinator.handlers["begins"] = self._begin
        coordinator.handlers["commits"] = self._commit

    def _begin(self, stream: FakeStream, begin: client_pb2.BeginRequest) -> None:
        if begin.key in self.kept:
            holder = client_pb2.Answer(transaction_id=HOLDER, outcome=COMMITTED, replayed=True, result=self.kept[begin.key])
            stream.begun(begin.number, holder=holder)
        else:
            self._keys[begin.number] = begin.key
            stream.begun(begin.number)

    def _commit(self, stream: FakeStream, commit: client_pb2.CommitRequest) -> None:
        self.commits.append(commit)
        if key := self._keys.get(commit.number):
            self.kept[key] = commit.result
        stream.answer(commit.number)


@pytest.fixture
def keeper(coordinator: FakeCoordinator) -> Keeper:
    return Keeper(coordinator)


async def again(client: Client, key: str = "k") -> AlreadyCommitted:
    with pytest.raises(AlreadyCommitted) as caught:
        async with client.transaction(key=key):
            pytest.fail("the body ran")
    return caught.value


# ---- said by the caller


@pytest.mark.parametrize("value", [None, False, 0, "", b"", [], {}, "paid", {"amounts": [1, Decimal("2.50")], "ok": True}])
async def test_what_was_said_is_given_back(keeper: Keeper, client: Client, value: Any) -> None:
    async with client.transaction(key="k") as tx:
        assert tx.result is None
        tx.result = value
        assert tx.result == value
    already = await again(client)
    assert already.has_result and already.outcome.has_result
    assert already.result == value and type(already.result) is type(value)
    assert not keeper.commits[0].result_optional


async def test_nothing_was_said(keeper: Keeper, client: Client) -> None:
    async with client.transaction(key="k"):
        pass
    already = await again(client)
    assert (already.has_result, already.result) == (False, None) and "tx.result" in already.hint
    with pytest.raises(AlreadyCommitted):
        already.given_back(b"")


async def test_it_is_taken_as_it_was_when_it_was_said(keeper: Keeper, client: Client) -> None:
    async with client.transaction(key="k") as tx:
        tx.result = lines = ["one"]
        lines.append("two")
        tx.result = [*lines[:1], "three"]
    assert (await again(client)).result == ["one", "three"]


async def test_an_abort_leaves_nothing(keeper: Keeper, client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.transaction(key="k") as tx:
            tx.result = 1
            tx.result = 1 // 0
    assert keeper.commits == []


async def test_what_was_kept_gets_to_another_process(keeper: Keeper, client: Client) -> None:
    async with client.transaction(key="k") as tx:
        tx.result = [1]
    already = await again(client)
    for other in (pickle.loads(pickle.dumps(already)), copy.copy(already)):
        assert (other.has_result, other.result, other.hint) == (True, [1], already.hint)


async def test_an_outcome_that_is_asked_for_under_the_key_has_it(
    coordinator: FakeCoordinator, keeper: Keeper, client: Client
) -> None:
    async with client.transaction(key="k") as tx:
        tx.result = 7
    result = keeper.kept["k"]
    coordinator.handlers["gets"] = lambda stream, get: stream.got(HOLDER, COMMITTED, asked=get.transaction_id, result=result)
    assert (await client.get(HOLDER, key="k")).result == 7


async def test_an_attempt_that_lost_to_another_is_told_of_that_one(
    coordinator: FakeCoordinator, keeper: Keeper, client: Client
) -> None:
    result = client_pb2.KeptResult(value=common_pb2.Value(integer=3)).SerializeToString()
    coordinator.handlers["commits"] = None
    coordinator.handlers["gets"] = lambda stream, get: stream.got(HOLDER, COMMITTED, asked=get.transaction_id, result=result)
    with pytest.raises(AlreadyCommitted) as caught:
        async with client.transaction(key="k") as tx:
            commit = asyncio.create_task(tx.commit())
            await coordinator.next("commits")
            coordinator.restart()
            await commit
    assert caught.value.result == 3


# ---- refused before anything is sent


@pytest.mark.parametrize("value", [object(), {"at": {1}}, 2**70, ("a", object())])
async def test_what_is_no_plain_value_is_refused_where_it_is_said(keeper: Keeper, client: Client, value: object) -> None:
    with pytest.raises(RequestError, match="result") as caught:
        async with client.transaction(key="k") as tx:
            tx.result = value
    assert caught.value.reason is Reason.BAD_RESULT and keeper.commits == []


async def test_without_a_key_there_is_nothing_to_leave_it_under(keeper: Keeper, client: Client) -> None:
    with pytest.raises(RequestError) as caught:
        async with client.transaction() as tx:
            tx.result = 1
    assert caught.value.reason is Reason.INVALID_ARGUMENT and "key=" in caught.value.hint


async def test_it_is_said_before_the_commit(keeper: Keeper, client: Client) -> None:
    async with client.transaction(key="k") as tx:
        pass
    with pytest.raises(RequestError) as caught:
        tx.result = 1
    assert caught.value.reason is Reason.NOT_ACTIVE
    tx.returned(1, b"x")  # a function that has ended its transaction by itself: too late is no error of it
    assert tx.result is None


async def test_the_coordinators_limit_is_known_here(coordinator: FakeCoordinator, keeper: Keeper, client: Client) -> None:
    coordinator.limits.payload_bytes_max = 50
    with pytest.raises(RequestError) as caught:
        async with client.transaction(key="k") as tx:
            tx.result = "x" * 40
            tx.result = "x" * 60
    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE


async def test_a_commit_that_fits_no_frame_is_not_sent(coordinator: FakeCoordinator, keeper: Keeper, client: Client) -> None:
    coordinator.limits.frame_bytes_max = 100
    with pytest.raises(RequestError) as caught:
        async with client.transaction(key="k") as tx:
            tx.result = "x" * 200
    assert caught.value.reason is Reason.FRAME_TOO_LARGE and keeper.commits == []


async def test_an_older_coordinator_is_asked_for_nothing_that_it_does_not_do(coordinator: FakeCoordinator, client: Client) -> None:
    with pytest.raises(RequestError) as caught:
        async with client.transaction(key="k") as tx:
            tx.result = 1
    assert caught.value.reason is Reason.VERSION_MISMATCH

    @transactional(client, key=lambda: "k")
    async def function() -> int:
        return 1

    assert await function() == 1
    assert not (await coordinator.next("commits")).result


async def test_a_client_says_that_it_knows_of_results(coordinator: FakeCoordinator, client: Client) -> None:
    async with client.transaction(key="k"):
        pass
    assert features.KEY_RESULTS in coordinator.hellos[0].capabilities


# ---- returned by a function


async def test_a_function_is_given_back_what_it_returned(keeper: Keeper, client: Client) -> None:
    ran = []

    @transactional(client, key=lambda order, amount=1: f"order-{order}")
    async def place(order: str, amount: int = 1) -> dict[str, int]:
        ran.append(order)
        return {"amount": amount}

    assert await place("o1", 5) == {"amount": 5}
    assert await place("o1", amount=5) == {"amount": 5} and ran == ["o1"]
    assert keeper.commits[0].result_optional
    with pytest.raises(AlreadyCommitted, match="other arguments") as caught:
        await place("o1", amount=6)
    assert caught.value.result == {"amount": 5} and ran == ["o1"]


async def test_another_function_is_not_given_it(keeper: Keeper, client: Client) -> None:
    @transactional(client, key=lambda: "k")
    async def charge() -> str:
        return "charged"

    @transactional(client, key=lambda: "k")
    async def ship() -> str:
        pytest.fail("it ran")

    await charge()
    with pytest.raises(AlreadyCommitted, match="another function"):
        await ship()


async def test_nor_is_it_given_what_a_caller_has_said(keeper: Keeper, client: Client) -> None:
    @transactional(client, key=lambda: "k")
    async def charge() -> str:
        pytest.fail("it ran")

    async with client.transaction(key="k") as tx:
        tx.result = "charged"
    with pytest.raises(AlreadyCommitted):
        await charge()


async def test_what_it_says_itself_goes_before_what_it_returns(keeper: Keeper, client: Client) -> None:
    @transactional(client, key=lambda: "k")
    async def place() -> object:
        current_transaction().result = "place o1"  # type: ignore[union-attr]  # there is one
        return object()

    await place()
    assert await place() == "place o1" and not keeper.commits[0].result_optional


async def test_what_cannot_be_kept_is_returned_all_the_same_and_that_is_told_once(
    keeper: Keeper, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    @transactional(client, key=lambda number: f"k{number}")
    async def load(number: int) -> object:
        return ("secret", row)

    row = object()
    with caplog.at_level(logging.WARNING, "participant_sdk.client"):
        assert await load(1) == ("secret", row)
        assert await load(2) == ("secret", row)
    (told,) = [record.getMessage() for record in caplog.records if "not kept" in record.getMessage()]
    assert "load" in told and "secret" not in told
    with pytest.raises(AlreadyCommitted) as caught:
        await load(1)
    assert not caught.value.has_result


async def test_it_is_left_out_where_a_frame_has_no_room(coordinator: FakeCoordinator, keeper: Keeper, client: Client) -> None:
    coordinator.limits.frame_bytes_max = 100

    @transactional(client, key=lambda: "k")
    async def function() -> str:
        return "x" * 200

    assert await function() == "x" * 200
    assert keeper.kept == {"k": b""}


async def test_without_a_key_nothing_is_left(keeper: Keeper, client: Client) -> None:
    @transactional(client)
    async def function() -> int:
        return 1

    await function()
    assert not keeper.commits[0].result


def test_a_call_is_known_by_the_name_and_the_arguments() -> None:
    def one(a: object, b: object = 1, *more: object, **named: object) -> None: ...

    def other(a: object) -> None: ...

    known = maker(one, ({"x": 1, "y": 2},), {})
    assert known == maker(one, (), {"a": {"y": 2, "x": 1}})
    others = [((1,), {}), ((1, 2), {}), (("1",), {}), ((1, 2, 3), {}), ((1, 2), {"c": 3})]
    assert len({known, maker(other, (1,), {}), *(maker(one, args, named) for args, named in others)}) == 7
    assert maker(one, (object(), 2), {}) == maker(one, (object(), 2), {}), "what has no wire form is no part of it"
    with pytest.raises(TypeError):
        maker(other, (1, 2), {})


class Currency(Enum):
    EUR = 1
    USD = 2


@dataclass
class Line:
    item: str
    price: object = None


@dataclass(slots=True)
class Slotted:
    item: str


Pair = namedtuple("Pair", "one two")
CALLS: dict[str, tuple[Any, Any]] = {
    "none and an object": (None, object()), "enum": (Currency.EUR, Currency.USD), "date": (date(2026, 1, 1), date(2026, 1, 2)),
    "large": (2**70, 2**71), "uuid": (UUID(int=1), UUID(int=2)), "set": ({1, 2}, {1, 3}), "map": ({1: 2}, {1: 3}),
    "beside an object": ([1, object()], [2, object()]), "in a map": ({"c": object(), "n": 1}, {"c": object(), "n": 2}),
    "named": (Pair(1, 2), Pair(1, 3)), "dataclass": (Line("a", Currency.EUR), Line("a", Currency.USD)),
    "slots": (Slotted("a"), Slotted("b")), "text": ("\ud800", "\ud801"), "list or set": ([Currency.EUR], {Currency.EUR}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_arguments_without_a_wire_form_are_told_apart(name: str) -> None:
    def function(*items: object, **named: object) -> None: ...

    one, other = CALLS[name]
    again = copy.deepcopy(one)
    assert maker(function, (object(), one), {}) == maker(function, (object(), again), {}) != maker(function, (object(), other), {})
    assert maker(function, (), {"it": one}) == maker(function, (), {"it": again}) != maker(function, (), {"it": other})


def test_what_contains_itself_and_what_an_orm_has_not_fetched_are_left_out() -> None:
    def function(it: object) -> None: ...

    one, other = [], []  # type: list[Any], list[Any]
    one += [1, one]
    other += [1, other]
    assert maker(function, (one,), {}) == maker(function, (other,), {})
    line = Line("a")
    del line.__dict__["price"]
    assert maker(function, (line,), {}) != maker(function, (Line("a"),), {})


def test_a_partial_is_its_function_with_what_it_adds() -> None:
    def one(a: int, b: int, c: int = 0) -> None: ...

    def other(a: int, b: int, c: int = 0) -> None: ...

    known = maker(functools.partial(one, 1, c=3), (2,), {})
    assert known == maker(one, (1, 2), {"c": 3}) == maker(functools.partial(functools.partial(one, 1), 2), (), {"c": 3})
    assert known != maker(functools.partial(other, 1, c=3), (2,), {}) and known != maker(functools.partial(one, 9, c=3), (2,), {})


async def test_a_decorator_below_may_add_arguments(keeper: Keeper, client: Client) -> None:
    def with_connection(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            return await function(object(), *args, **kwargs)

        return wrapped

    @transactional(client, key=lambda order, amount: order)
    @with_connection
    async def place(connection: object, order: str, amount: int) -> int:
        return amount

    assert await place("o1", 5) == await place("o1", 5) == 5
    with pytest.raises(AlreadyCommitted):
        await place("o1", 6)


def test_a_function_that_tells_no_signature_is_known_by_its_arguments() -> None:
    assert maker(max, (1, 2), {}) == maker(max, (1, 2), {}) != maker(max, (1, 3), {})


@pytest.mark.parametrize("key", [None, lambda: "outer"])
async def test_what_a_body_hears_of_another_key_is_not_what_the_function_came_to(keeper: Keeper, client: Client, key: Any) -> None:
    @transactional(client, key=key)
    async def function() -> str:
        await client.transaction(key="inner").begin()
        pytest.fail("it has committed")

    made_by = maker(function.__wrapped__, (), {}) if key else b""  # type: ignore[attr-defined]  # as `functools.wraps` leaves it
    kept = client_pb2.KeptResult(value=common_pb2.Value(text="of the inner one"), made_by=made_by)
    keeper.kept["inner"] = kept.SerializeToString()
    with pytest.raises(AlreadyCommitted) as caught:
        await function()
    assert caught.value.result == "of the inner one" and keeper.commits == [], "nothing of the outer one is committed"


# ---- with a payload codec


class Reversing(PayloadCodec):
    """Turns payload round, and says what it is."""

    def encode(self, payload: bytes, what: str) -> bytes:
        return what.encode() + b"|" + payload[::-1]

    def decode(self, payload: bytes, what: str) -> bytes:
        told, _, turned = payload.partition(b"|")
        if told != what.encode():
            raise ValueError(what)
        return turned[::-1]


async def test_a_codec_keeps_it_from_the_coordinator(coordinator: FakeCoordinator, keeper: Keeper) -> None:
    async with Client(coordinator.address, codec=Reversing()) as client:
        async with client.transaction(key="k") as tx:
            tx.result = "secret"
        assert b"secret" not in keeper.kept["k"]
        assert (await again(client)).result == "secret"
        keeper.kept["other"] = keeper.kept["k"]
        moved = await again(client, "other")
        with pytest.raises(RequestError) as caught:
            assert moved.result
        assert caught.value.reason is Reason.PAYLOAD_UNREADABLE and moved.has_result
    async with Client(coordinator.address) as plain:
        with pytest.raises(RequestError, match="no payload codec"):
            assert (await again(plain)).result


async def test_a_function_that_cannot_read_what_it_left_is_told_that_it_is_done(
    coordinator: FakeCoordinator, keeper: Keeper, client: Client
) -> None:
    async def charge() -> str:
        return "charged"

    async with Client(coordinator.address, codec=Reversing()) as other:
        await transactional(other, key=lambda: "k")(charge)()
    with pytest.raises(AlreadyCommitted, match="its key was used before") as caught:
        await transactional(client, key=lambda: "k")(charge)()
    assert "no payload codec" in caught.value.hint and caught.value.has_result


def test_what_is_none_and_what_is_in_clear_are_told_apart() -> None:
    clear = client_pb2.KeptResult(value=common_pb2.Value(integer=3)).SerializeToString()
    with pytest.raises(RequestError) as caught:
        decoded(b"\x00TS", "k", None)
    assert caught.value.reason is Reason.BAD_RESULT
    with pytest.raises(RequestError, match="in clear"):
        decoded(clear, "k", Coded(Reversing()))
    lenient = Reversing()
    lenient.clear_allowed = True
    assert decoded(clear, "k", Coded(lenient)).value == 3
