"""What a caller leaves under his key: durable with the commit, told under the key, and given back with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import WALL_MS, Driver
from tests.coordinator_core.test_contradictions import BECAUSE, cleaned
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2, record_pb2

LEFT = b"what it came to"
BRIEF = CoreSettings(retention_seconds=60.0, skew_seconds=10.0, timeout_ms_max=60_000)


def begun(driver: Driver, names: str, number: int = 1, key: str = "k") -> None:
    """An interactive transaction with a key has worked at these participants."""
    driver.begin(number, key=key)
    for name in names:
        driver.enlist(name, number)
    driver.out.clear()


def leave(driver: Driver, names: str, number: int = 1, result: bytes = LEFT, *, optional: bool = False) -> None:
    """It asks to commit, and leaves something."""
    driver.commit(number, result, optional=optional, **dict.fromkeys(names, 1))


def of_several(settings: CoreSettings | None = None) -> Driver:
    """Transaction 1 of a and b has committed under the key k; neither has acknowledged."""
    driver = Driver(settings)
    begun(driver, "ab")
    leave(driver, "ab")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]
    return driver


def finished(settings: CoreSettings | None = None) -> Driver:
    """The same, and all have acknowledged."""
    driver = of_several(settings)
    driver.acknowledge("a", 1)
    driver.acknowledge("b", 1)
    driver.sync()
    return driver


def of_one(settings: CoreSettings | None = None, kind: str = "COMMITTED") -> Driver:
    """Transaction 1 of a alone has committed in one phase."""
    driver = Driver(settings)
    begun(driver, "a")
    leave(driver, "a")
    driver.sync()
    driver.vote("a", 1, kind)
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]
    return driver


def unchanged(names: str) -> Driver:
    """Transaction 1 has changed nothing; its record is on its way."""
    driver = Driver()
    begun(driver, names)
    leave(driver, names)
    if len(names) == 1:
        driver.sync()
    for name in names:
        driver.vote(name, 1, "READ_ONLY")
    return driver


def read_only(names: str) -> Callable[[], Driver]:
    """Makes a transaction that has changed nothing, and is over."""

    def make() -> Driver:
        driver = unchanged(names)
        driver.sync()
        return driver

    return make


def holder(driver: Driver, number: int = 9, key: str = "k") -> client_pb2.Answer | None:
    """What a begin under the key is told of its holder; `None` when it begins."""
    driver.take(effects.Begun)
    driver.begin(number, key=key, first_attempt_ms=WALL_MS)
    (effect,) = driver.take(effects.Begun)
    response: client_pb2.BeginResponse = effect.response
    return response.holder if response.HasField("holder") else None


COMMITS: dict[str, Callable[[], Driver]] = {
    "several": of_several, "finished": finished, "one": of_one, "one that read": lambda: of_one(kind="READ_ONLY"),
    "two that read": read_only("ab"), "nobody": read_only(""),
}  # fmt: skip


# ---- given back


@pytest.mark.parametrize("name", COMMITS)
def test_the_key_gives_it_back_in_this_life_in_the_next_and_after_cleaning(name: str) -> None:
    first = COMMITS[name]()
    lives = [
        first, Driver(records=first.log, nonce="0123abce"), Driver(records=cleaned(first), nonce="0123abce"),
        Driver(records=cleaned(Driver(records=cleaned(first), nonce="0123abce")), nonce="0123abcf"),
    ]  # fmt: skip
    for driver in lives:
        told = holder(driver)
        assert told is not None and (told.transaction_id, told.outcome) == (first.id(1), common_pb2.OUTCOME_COMMITTED)
        assert told.result == LEFT and told.replayed
        assert driver.book.kept_bytes == len(LEFT)


def test_a_question_under_the_key_is_told_it_and_one_by_the_id_alone_is_not() -> None:
    driver = finished()
    driver.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=driver.id(1), key="k", first_attempt_ms=WALL_MS)))
    driver.get(driver.id(1))
    under, by_id = (effect.answer for effect in driver.take(effects.Got))
    assert (under.result, by_id.result) == (LEFT, b"") and by_id.outcome == common_pb2.OUTCOME_COMMITTED


def test_whoever_left_it_is_not_told_it_again() -> None:
    driver = unchanged("")
    driver.sync()
    (answer,) = driver.answers()
    assert answer.outcome == common_pb2.OUTCOME_COMMITTED and not answer.result


def test_nothing_was_left() -> None:
    driver = Driver()
    begun(driver, "")
    leave(driver, "", result=b"")
    assert not driver.waiting and driver.outcomes() == ["1 COMMITTED"], "nothing is to be recorded"
    told = holder(driver)
    assert told is not None and not told.result


def test_a_commit_that_is_repeated_with_something_else_changes_nothing() -> None:
    driver = Driver()
    begun(driver, "ab")
    leave(driver, "ab")
    leave(driver, "ab", result=b"something else")
    driver.vote("a", 1)
    driver.vote("b", 1)
    driver.sync()
    told = holder(driver)
    assert told is not None and told.result == LEFT


def test_one_that_was_handed_over_is_told_when_it_is_settled() -> None:
    driver = Driver()
    begun(driver, "a")
    leave(driver, "a")
    driver.sync()
    again = Driver(records=driver.log, nonce="0123abce")
    again.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=driver.id(1), key="k", first_attempt_ms=WALL_MS)))
    again.settle("a", driver.id(1), "COMMITTED")
    (effect,) = again.take(effects.Got)
    assert effect.answer.result == LEFT


# ---- durable before it is told, also where nothing has changed


@pytest.mark.parametrize("names", ["", "a", "ab"])
def test_what_has_changed_nothing_is_told_when_its_record_is_durable(names: str) -> None:
    driver = unchanged(names)
    assert driver.txn(1).state.name == "DECIDING" and driver.outcomes() == []
    told = holder(driver)
    assert told is not None and told.outcome == common_pb2.OUTCOME_IN_DOUBT and not told.result
    before, forced = len(driver.log), driver.forced
    driver.sync()
    assert driver.outcomes() == ["1 COMMITTED"]
    (record,) = [record_pb2.CoordinatorRecord.FromString(body) for body in driver.log[before:]]
    assert record.ended.claim.result == LEFT and driver.forced == forced + 1
    assert all(not one.unended for one in driver.book.participants.values()), "the watermark may pass"


@pytest.mark.parametrize("names", ["", "a", "ab"])
def test_a_crash_before_that_leaves_the_key_free(names: str) -> None:
    driver = unchanged(names)
    again = Driver(records=driver.log, nonce="0123abce")
    if names == "a":
        again.settle("a", driver.id(1), "ROLLED_BACK")
    assert holder(again) is None and again.book.kept_bytes == 0


@pytest.mark.parametrize("names", ["", "ab"])
def test_the_cleaner_writes_it_as_it_will_be(names: str) -> None:
    driver = unchanged(names)
    (copy,) = driver.core.live_records(driver.id(1))
    again = Driver(records=[*driver.log, copy.SerializeToString()], nonce="0123abce")
    told = holder(again)
    assert told is not None and told.result == LEFT


# ---- what is wrong


def test_without_a_key_it_aborts() -> None:
    driver = Driver()
    driver.begin(1)
    driver.out.clear()
    leave(driver, "", optional=True)
    assert driver.outcomes() == ["1 ABORTED INVALID_ARGUMENT"]


LARGE = CoreSettings(payload_bytes_max=10)
FULL = CoreSettings(key_results_bytes_max=2 * len(LEFT) - 1)


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [(LARGE, 11, "PAYLOAD_TOO_LARGE"), (FULL, 2 * len(LEFT), "PAYLOAD_TOO_LARGE"), (FULL, len(LEFT), "OVERLOADED")],
)
def test_one_that_cannot_be_kept_aborts_or_is_left_out(settings: CoreSettings, size: int, reason: str) -> None:
    driver = Driver(settings)
    if settings is FULL:
        begun(driver, "", 1, "other")
        leave(driver, "", 1)
        driver.sync()
    before = driver.book.kept_bytes
    begun(driver, "", 2)
    leave(driver, "", 2, b"x" * size)
    assert driver.outcomes() == [f"2 ABORTED {reason}"]
    begun(driver, "", 3)
    leave(driver, "", 3, b"x" * size, optional=True)
    assert driver.outcomes() == ["3 COMMITTED"] and driver.book.kept_bytes == before
    told = holder(driver)
    assert told is not None and not told.result


def test_what_fits_to_the_byte_is_kept() -> None:
    driver = Driver(CoreSettings(key_results_bytes_max=2 * len(LEFT), payload_bytes_max=len(LEFT)))
    for number, key in ((1, "one"), (2, "two")):
        begun(driver, "", number, key)
        leave(driver, "", number)
        driver.sync()
        assert driver.outcomes() == [f"{number} COMMITTED"]
    assert driver.core.fill()["key_results_bytes_max"] == driver.book.kept_bytes == 2 * len(LEFT)


# ---- given back in time


def test_an_abort_gives_its_bytes_back_and_the_next_attempt_leaves_its_own() -> None:
    driver = Driver()
    begun(driver, "ab")
    leave(driver, "ab", result=b"never")
    assert driver.book.kept_bytes == len(b"never")
    driver.vote("a", 1, "NO")
    assert driver.book.kept_bytes == 0
    begun(driver, "", 2)
    leave(driver, "", 2)
    driver.sync()
    told = holder(driver)
    assert told is not None and (told.transaction_id, told.result) == (driver.id(2), LEFT)


@pytest.mark.parametrize("make", [finished, of_one])
def test_it_is_kept_as_long_as_its_key_and_no_longer(make: Callable[[CoreSettings], Driver]) -> None:
    driver = make(BRIEF)
    for life in (driver, Driver(BRIEF, driver.log, at=driver.now, nonce="0123abce")):
        life.wait(59.0)
        life.sync()
        assert life.book.kept_bytes == len(LEFT)
        life.wait(62.0)
        life.sync()
        assert life.book.kept_bytes == 0 and not life.book.keys


# ---- where people had a hand in it


def forget(driver: Driver, name: str) -> None:
    driver.step(events.Administer("t", admin_pb2.ForgetTransactionRequest(transaction_id=name, **BECAUSE)))
    driver.sync()


def rolled_back_by_hand(driver: Driver) -> None:
    """b says that people have rolled its branch of transaction 1 back."""
    kind = participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT
    driver.say("b", participant_pb2.Acknowledgement(transaction_id=driver.id(1), kind=kind, detail="by bob"))
    driver.sync()
    assert driver.txn(1).state.name == "HEURISTIC" and driver.book.kept_bytes == len(LEFT), "the key is held"


def test_of_a_mixed_outcome_nothing_is_given_back() -> None:
    driver = of_several(BRIEF)
    driver.acknowledge("a", 1)
    rolled_back_by_hand(driver)
    told = holder(driver)
    assert told is not None and told.outcome == common_pb2.OUTCOME_MIXED and not told.result
    forget(driver, driver.id(1))
    for life in (driver, Driver(BRIEF, cleaned(driver), at=driver.now, nonce="0123abce")):
        assert life.book.kept_bytes == len(LEFT)
        life.wait(180.0)
        life.sync()
        assert life.book.kept_bytes == 0


def test_where_no_commit_was_decided_it_goes_with_the_key_when_people_forget_it() -> None:
    driver = Driver(BRIEF)
    begun(driver, "ab")
    leave(driver, "ab")
    driver.vote("a", 1, "COMMITTED")  # which nobody had told it to do
    driver.sync()
    assert driver.book.kept_bytes == len(LEFT) and driver.txn(1).state.name == "HEURISTIC"
    forget(driver, driver.id(1))
    assert driver.book.kept_bytes == 0 and not driver.book.keys
    assert Driver(BRIEF, cleaned(driver), at=driver.now, nonce="0123abce").book.kept_bytes == 0


def test_what_is_open_again_shares_what_is_retained_of_it() -> None:
    driver = finished(BRIEF)
    rolled_back_by_hand(driver)
    forget(driver, driver.id(1))
    assert driver.book.kept_bytes == len(LEFT)
    driver.wait(180.0)
    driver.sync()
    assert driver.book.kept_bytes == 0


@pytest.mark.parametrize("life", ["this", "next", "cleaned"])
def test_one_that_was_given_up_and_has_committed_gives_it_back_when_people_have_forgotten_it(life: str) -> None:
    driver = of_several(BRIEF)
    driver.acknowledge("a", 1)
    abandon = admin_pb2.ResolveRequest(transaction_id=driver.id(1), action=admin_pb2.RESOLVE_ACTION_ABANDON, **BECAUSE)
    driver.step(events.Administer("t", abandon))
    driver.sync()
    assert driver.txn(1).state.name == "HEURISTIC"
    driver.acknowledge("b", 1)
    driver.sync()
    told = holder(driver)
    assert told is not None and (told.outcome, told.result) == (common_pb2.OUTCOME_COMMITTED, LEFT)
    forget(driver, driver.id(1))
    if life != "this":
        records = driver.log if life == "next" else cleaned(driver)
        driver = Driver(BRIEF, records, at=driver.now, nonce="0123abce")
    told = holder(driver)
    assert told is not None and (told.outcome, told.result) == (common_pb2.OUTCOME_COMMITTED, LEFT)
    assert driver.book.kept_bytes == len(LEFT)
