"""Operations: what can be registered, how arguments are checked, which locks are declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, Keys
from participant_sdk.lock_keys import LOCK_KEYS_MAX, NO_LOCKS, Read, keys_of_local_work
from participant_sdk.registry import Registry
from troth.errors import ConfigError, Reason, RequestError
from troth.v1 import common_pb2
from troth.values import encode_arguments

if TYPE_CHECKING:
    from somewhere_else import Database


def operation(name: str, /, **arguments: object) -> common_pb2.Operation:
    return common_pb2.Operation(name=name, arguments=encode_arguments(arguments))


def debit(db: Database, *, account: str, amount: int) -> int:
    return amount


def many(
    db: object, *, price: Decimal, ratio: float = 0.5, lines: list[dict[str, int]] | None = None, extra: Any = None
) -> list[object]:
    return [price, ratio, lines, extra]


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add(debit, locks=lambda account, amount: [f"account/{account}"])
    registry.add(many)
    return registry


def bad(registry: Registry, call: common_pb2.Operation) -> RequestError:
    with pytest.raises(RequestError) as caught:
        registry.bind(call)
    return caught.value


def test_an_operation_is_called_with_its_arguments(registry: Registry) -> None:
    assert registry.bind(operation("debit", account="a", amount=5))(None) == 5


def test_defaults_are_filled_in_and_whole_numbers_are_floats(registry: Registry) -> None:
    call = registry.bind(operation("many", price=Decimal("1.5"), ratio=2))
    assert call.arguments == {"price": Decimal("1.5"), "ratio": 2.0, "lines": None, "extra": None}
    assert type(call.arguments["ratio"]) is float


def test_an_unknown_operation_tells_the_known_ones(registry: Registry) -> None:
    error = bad(registry, operation("credit"))
    assert error.reason is Reason.UNKNOWN_OPERATION
    assert "debit, many" in error.message


def test_all_mistakes_in_arguments_are_told_at_once(registry: Registry) -> None:
    error = bad(registry, operation("debit", amount="5", ammount=5))
    assert error.reason is Reason.BAD_ARGUMENTS
    assert error.message == (
        "debit: missing account; unexpected ammount (it takes account, amount); amount must be int, not str"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"price": 1}, "price must be Decimal, not int"),
        ({"price": Decimal(1), "lines": [{"a": True}]}, "lines must be list[dict[str, int]] | None, not list"),
        ({"price": Decimal(1), "ratio": True}, "ratio must be float, not bool"),
    ],
)
def test_types_are_checked_exactly(registry: Registry, arguments: dict[str, Any], message: str) -> None:
    assert message in bad(registry, operation("many", **arguments)).message


def test_nested_types_name_the_path() -> None:
    registry = Registry()

    def take(db: object, *, lines: list[dict[str, int]]) -> None: ...

    registry.add(take)
    assert "lines[1].a must be int, not str" in bad(registry, operation("take", lines=[{}, {"a": "x"}])).message


def test_bytes_that_are_no_arguments_are_refused(registry: Registry) -> None:
    assert bad(registry, common_pb2.Operation(name="debit", arguments=b"\xff")).reason is Reason.BAD_ARGUMENTS


def test_keys_come_from_the_locks_function_sorted_and_once(registry: Registry) -> None:
    calls = [operation("debit", account=name, amount=1) for name in ("b", "a", "b")]
    assert registry.keys(calls) == Keys(("account/a", "account/b"))


def test_without_locks_the_whole_resource_is_locked(registry: Registry) -> None:
    calls = [operation("debit", account="a", amount=1), operation("many", price=Decimal(1))]
    assert registry.keys(calls) == WHOLE


def test_locks_may_take_some_arguments_or_be_fixed_or_none() -> None:
    registry = Registry()
    registry.add(debit, name="some", locks=lambda account: [account])
    registry.add(debit, name="fixed", locks=["till"])
    registry.add(debit, name="free", locks=[])
    registry.add(debit, name="every", locks=lambda **arguments: sorted(arguments))
    keys = {name: registry.keys([operation(name, account="a", amount=1)]) for name in registry.names()}
    assert keys == {"some": Keys(("a",)), "fixed": Keys(("till",)), "free": NO_KEYS, "every": Keys(("account", "amount"))}


def test_who_names_nothing_gets_the_whole_where_undecided_rows_could_be_seen() -> None:
    registry = Registry(undecided_seen=True)
    registry.add(debit, name="fixed", locks=[])
    registry.add(debit, name="found", locks=lambda account: [])
    registry.add(debit, name="free", locks=NO_LOCKS)
    registry.add(debit, name="freely", locks=lambda account: NO_LOCKS)
    keys = {name: registry.keys([operation(name, account="a", amount=1)]) for name in registry.names()}
    assert keys == {"fixed": WHOLE, "found": WHOLE, "free": NO_KEYS, "freely": NO_KEYS}


@pytest.mark.parametrize(
    ("locks", "told"), [("stock/1", "a str"), (b"x", "a bytes"), ({"a": 1}, "a dict"), ([7], "a int among"), ([""], "1 to 200")]
)
def test_local_work_names_a_list_of_keys(locks: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told) as caught:
        keys_of_local_work(locks, reads=False)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    named: list[Sequence[str]] = [["b", "a"], [], (), NO_LOCKS]
    assert [keys_of_local_work(one, reads=False) for one in named] == [Keys(("a", "b")), WHOLE, WHOLE, NO_KEYS]
    assert [keys_of_local_work(one, reads=True) for one in named] == [Keys((), ("a", "b")), SHARED_WHOLE, SHARED_WHOLE, NO_KEYS]


@pytest.mark.parametrize("account", ["ann", ""])
def test_operations_of_one_name_keep_their_own_arguments(registry: Registry, account: str) -> None:
    """What was decoded for the keys is remembered by name *and* arguments until it runs, in whatever order that is."""
    first, second = (operation("debit", account=one, amount=1) for one in (account, "bob"))
    registry.keys([first, second])
    bound = {one.arguments: registry.bind(one).arguments["account"] for one in (first, second)}
    assert bound == {first.arguments: account, second.arguments: "bob"}


def test_keys_that_are_only_read_are_shared() -> None:
    registry = Registry()
    registry.add(debit, name="plain", locks=lambda account: [Read("prices"), account, Read(account), Read("rates"), Read("rates")])
    registry.add(debit, name="report", locks=[Read("*"), Read("prices")])
    registry.add(debit, name="rewrite", locks=[Read("*"), "till"])
    calls = {name: operation(name, account="a", amount=1) for name in registry.names()}
    assert registry.keys([calls["plain"]]) == Keys(("a",), ("prices", "rates"))
    assert registry.keys([calls["report"]]) == SHARED_WHOLE
    assert registry.keys([calls["rewrite"]]) == WHOLE, "it reads all and changes something"
    assert registry.keys([calls["report"], calls["plain"]]) == WHOLE


def test_local_reads_share_what_they_name() -> None:
    assert keys_of_local_work(["*"], reads=True) == SHARED_WHOLE
    assert keys_of_local_work(["a", Read("b")], reads=True) == Keys((), ("a", "b"))
    assert keys_of_local_work(["a", Read("b")], reads=False) == Keys(("a",), ("b",))
    for wrong in ("till", [7], [""], [Read("")], ["a"] * (LOCK_KEYS_MAX + 1)):
        with pytest.raises(RequestError, match="locks is"):
            keys_of_local_work(wrong, reads=True)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    "locks",
    [
        lambda account: 1 / 0,
        lambda account: [7],
        lambda account: [""],
        lambda account: 3,
        lambda account: f"account/{account}",
        lambda account: {account: 1},
        lambda account: account.encode(),
        lambda account: (key for key in account),
        lambda account: [Read(7)],
        lambda account: [str(number) for number in range(LOCK_KEYS_MAX + 1)],
    ],
)
def test_a_locks_function_that_fails_fails_the_operation(locks: Callable[..., Any]) -> None:
    registry = Registry()
    registry.add(debit, locks=locks)
    with pytest.raises(RequestError) as caught:
        registry.keys([operation("debit", account="a", amount=1)])
    assert caught.value.reason is Reason.OPERATION_FAILED
    assert "locks function of debit" in caught.value.message


def no_resource() -> None: ...
def positional(db: object, account: str) -> None: ...
def untyped(db: object, *, account) -> None: ...  # type: ignore[no-untyped-def]  # the mistake under test
def unsupported(db: object, *, at: complex) -> None: ...
def unknown_type(db: object, *, at: Database) -> None: ...
def bad_keys(db: object, *, at: dict[int, str]) -> None: ...
def starred(db: object, **rest: int) -> None: ...
def _private(db: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_resource, "no positional parameter"),
        (positional, "account: 'str', which is not keyword-only"),
        (untyped, "account without a type"),
        (unsupported, "type complex, which cannot travel"),
        (unknown_type, "not known in its module"),
        (bad_keys, "dict with int keys"),
        (starred, "not keyword-only"),
        (_private, "not a operation name"),
        (print, "no function"),
    ],
)
def test_what_cannot_be_an_operation_is_refused_at_once(function: Callable[..., Any], message: str) -> None:
    registry = Registry()
    with pytest.raises(ConfigError, match=".*".join(message.split())):
        registry.add(function)
    assert registry.names() == []


def test_a_name_is_taken_once(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="registered twice"):
        registry.add(debit)


def test_locks_must_fit_the_operation(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="takes acount, which the operation does not"):
        registry.add(debit, name="other", locks=lambda acount: [])
    with pytest.raises(ConfigError, match="list of keys"):
        registry.add(debit, name="other", locks="till")


def test_async_operations_only_where_the_resource_runs_them() -> None:
    async def slow(db: object) -> None: ...

    with pytest.raises(ConfigError, match="async def: it runs on the thread"):
        Registry(async_reason="it runs on the thread").add(slow)
    assert Registry().add(slow).is_async


def test_a_closed_registry_takes_no_more(registry: Registry) -> None:
    registry.close()
    with pytest.raises(ConfigError, match="has started"):
        registry.add(debit, name="late")


def test_names_are_found_by_function_too(registry: Registry) -> None:
    assert registry.name_of(debit) == "debit"
    with pytest.raises(RequestError, match="no operation 'no_resource'"):
        registry.name_of(no_resource)


# ---- what is kept from the look at the keys to the run


def test_what_ran_is_kept_no_longer(registry: Registry) -> None:
    one = operation("debit", account="a", amount=1)
    for _ in range(2):  # the same twice is kept once
        registry.keys([one])
    assert registry._bound_bytes == len(one.arguments)
    assert registry.bind(one).arguments == registry.bind(one).arguments == {"account": "a", "amount": 1}
    assert not registry._bound and registry._bound_bytes == 0


def test_what_is_kept_is_known_by_its_arguments_too(registry: Registry) -> None:
    first, second = (operation("debit", account="a", amount=amount) for amount in (1, 2))
    registry.keys([first, second])
    assert [registry.bind(one).arguments["amount"] for one in (second, first, second)] == [2, 1, 2]


def test_what_never_ran_is_bounded_in_number_and_bytes(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("participant_sdk.registry.BOUND_KEPT_MAX", 10)
    for amount in range(100):
        registry.keys([operation("debit", account="a", amount=amount)])
        assert len(registry._bound) <= 10
    monkeypatch.setattr("participant_sdk.registry.BOUND_KEPT_MAX", 1000)
    monkeypatch.setattr("participant_sdk.registry.BOUND_BYTES_MAX", 500)
    for amount in range(100):
        registry.keys([operation("debit", account="a" * 100, amount=amount)])
        assert registry._bound_bytes == sum(len(arguments) for _, arguments in registry._bound) <= 700
