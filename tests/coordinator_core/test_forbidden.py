"""What the policy forbids, and what belongs to somebody else: known outside, and said by the core."""

from __future__ import annotations

import pytest

from coordinator.core import effects, events
from coordinator.core.settings import CoreSettings
from tests.coordinator_core.driver import Driver
from troth.errors import Reason, RequestError
from troth.v1 import client_pb2

NO = RequestError(Reason.FORBIDDEN, "no grant gives it")


def test_what_is_forbidden_never_runs_also_when_it_is_repeated_under_another_policy() -> None:
    driver = Driver()
    request = driver.request(1, "ab")
    driver.step(events.Run(driver.session, request, refusal=NO))
    assert driver.outcomes() == ["1 ABORTED FORBIDDEN"]
    driver.step(events.Run(driver.session, request))
    assert driver.outcomes() == ["1 ABORTED FORBIDDEN"], "its client has been told that it did not run"
    assert driver.sent() == []


def test_of_a_key_that_is_committed_nobody_is_told_that_it_is_forbidden() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    driver.run(2, "ab", key="k")
    for name in "ab":
        driver.vote(name, 2)
    driver.sync()
    driver.outcomes()
    driver.step(events.Run(driver.session, driver.request(3, "ab", key="k"), refusal=NO))
    assert driver.outcomes() == ["3 COMMITTED"]


def test_a_begin_that_is_forbidden() -> None:
    driver = Driver()
    driver.step(events.Begin(driver.session, client_pb2.BeginRequest(number=1, timeout_ms=1000), refusal=NO))
    (begun,) = driver.take(effects.Begun)
    assert begun.response.refusal.reason == "FORBIDDEN"
    assert not driver.book.live


# ---- whose a transaction is


ADA, EVE = "token:ada", "token:eve"


def owned_by(driver: Driver, owner: str) -> str:
    """A session of an identity; returns its name."""
    session = f"{driver.session.rpartition('.')[0]}.7"
    driver.step(events.SessionOpened(session, owner=owner))
    return session


def unary(driver: Driver) -> str:
    """The session of unary calls."""
    return str(driver.core.unary_session)


def begin_unary(driver: Driver, number: int, caller: str) -> str:
    """An interactive transaction of a unary caller; returns its id."""
    driver.step(events.Begin(unary(driver), client_pb2.BeginRequest(number=number, timeout_ms=5000), caller=caller))
    (begun,) = driver.take(effects.Begun)
    return str(begun.response.transaction_id)


def test_nobody_commits_or_aborts_what_another_has_begun() -> None:
    driver = Driver()
    name = begin_unary(driver, 1, ADA)
    for number, event in enumerate((
        events.Commit(unary(driver), client_pb2.CommitRequest(number=11, transaction_id=name), EVE),
        events.Abort(unary(driver), client_pb2.AbortRequest(number=12, transaction_id=name), EVE),
    ), 11):  # fmt: skip
        driver.step(event)
        assert driver.outcomes() == [f"{number} IN_DOUBT FORBIDDEN"]
    assert driver.book.live[name].state.value == "ACTIVE"
    driver.step(events.Abort(unary(driver), client_pb2.AbortRequest(number=1, transaction_id=name), ADA))
    assert driver.outcomes() == ["1 ABORTED CLIENT_ABORT"]


def test_who_may_act_for_the_owner_acts_in_his_name() -> None:
    driver = Driver()
    name = begin_unary(driver, 1, ADA)
    assert driver.core.owner_of(name) == ADA
    driver.step(events.Abort(unary(driver), client_pb2.AbortRequest(number=1, transaction_id=name), ADA))
    assert driver.outcomes() == ["1 ABORTED CLIENT_ABORT"]


@pytest.mark.parametrize("names", ["ab", "a"])
def test_nobody_is_told_of_what_another_has_begun_also_after_a_restart(names: str) -> None:
    driver = Driver()
    driver.session = owned_by(driver, ADA)
    driver.run(1, names)
    for name in names:
        driver.vote(name, 1, "COMMITTED" if names == "a" else "YES")
    driver.sync()
    driver.out.clear()
    for again in (driver, Driver(records=driver.log, nonce="0123abd0")):
        for caller in (EVE, ADA, ""):
            again.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=f"{driver.session}.1"), caller))
        assert again.got() == ["0 IN_DOUBT FORBIDDEN", "0 COMMITTED", "0 COMMITTED"]


def test_a_transaction_of_another_s_session_is_another_s_before_it_begins() -> None:
    driver = Driver()
    session = owned_by(driver, ADA)
    driver.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=f"{session}.9"), EVE))
    assert driver.got() == ["0 IN_DOUBT FORBIDDEN"]


def test_two_identities_with_one_key_have_two_keys_also_after_a_restart() -> None:
    """Whoever guessed a key could squat it: its owner was told KEY_REUSED, or the outcome of another's work."""
    driver = Driver()
    for number, (caller, names) in enumerate(((EVE, "ab"), (ADA, "bc"), (ADA, "bc")), 1):
        driver.session = unary(driver)
        driver.step(events.Run(driver.session, driver.request(number, names, key="invoice-1"), caller=caller))
        for name in names if number < 3 else "":
            driver.vote(name, number)
        driver.sync()
    assert driver.outcomes() == ["1 COMMITTED", "2 COMMITTED", "3 COMMITTED"]
    again = Driver(records=driver.log, nonce="0123abd0")
    again.step(events.Get("ticket", client_pb2.GetRequest(transaction_id="c1.1.0123abcd.0.9", key="invoice-1"), ADA))
    (got,) = again.take(effects.Got)
    assert got.answer.transaction_id == driver.id(2)


def test_a_participant_that_nobody_invites_has_no_branch_and_no_veto() -> None:
    driver = Driver()
    driver.core.invite_by(lambda owner, service: (owner, service) != (ADA, "c"))
    driver.session = owned_by(driver, ADA)
    driver.begin(1)
    driver.enlist("a", 1)
    driver.enlist("c", 1)
    answers = [effect.message for effect in driver.take(effects.Send)]
    assert [answer.refusal.reason for answer in answers] == ["", "FORBIDDEN"]
    driver.commit(1, a=1)
    assert driver.sent() == ["a.prepares"]


def test_a_commit_that_names_a_participant_that_is_not_invited_is_an_abort() -> None:
    driver = Driver()
    driver.core.invite_by(lambda owner, service: service != "c")
    driver.session = owned_by(driver, ADA)
    request = client_pb2.CommitRequest(number=1, begin=client_pb2.BeginRequest(timeout_ms=5000))
    request.acknowledged.add(participant="c", count=1, incarnation=1)
    driver.step(events.Commit(driver.session, request))
    assert driver.outcomes() == ["1 ABORTED FORBIDDEN"]


def test_what_belongs_to_nobody_is_anybody_s() -> None:
    driver = Driver()
    driver.core.invite_by(lambda owner, service: False)
    driver.begin(1)
    driver.enlist("c", 1)
    driver.step(events.Get("ticket", client_pb2.GetRequest(transaction_id=driver.id(1)), EVE))
    assert driver.got() == ["0 IN_DOUBT"]
    assert driver.core.owner_of("c1.1.0123abcd.5.1") is None


def test_one_identity_may_have_so_many_open_and_others_are_not_kept_out() -> None:
    driver = Driver(CoreSettings(owner_transactions_max=2))
    driver.session = unary(driver)
    for number, caller in enumerate((ADA, ADA, ADA, EVE, ""), 1):
        driver.step(events.Run(driver.session, driver.request(number, "ab"), caller=caller))
    assert driver.outcomes() == ["3 ABORTED OVERLOADED"]
    assert driver.core.fill()["owner_transactions_max"] == 2
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    for name in "ab":
        driver.acknowledge(name, 1)
    driver.sync()
    driver.step(events.Run(driver.session, driver.request(6, "ab"), caller=ADA))
    assert driver.outcomes() == ["1 COMMITTED"]


def test_what_is_open_of_an_identity_is_counted_also_after_a_restart() -> None:
    driver = Driver()
    driver.session = unary(driver)
    for number, key in ((1, ""), (2, "k")):
        driver.step(events.Run(driver.session, driver.request(number, "ab", key=key), caller=ADA))
        for name in "ab":
            driver.vote(name, number)
    driver.sync()
    again = Driver(records=driver.log, nonce="0123abd0", connect=False)
    assert again.core.fill()["owner_transactions_max"] == 2
