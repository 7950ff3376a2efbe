"""What is said of a transaction when an operator was there before, or a record came twice."""

from __future__ import annotations

from coordinator.core import effects, events
from coordinator.core.book import Book
from coordinator.core.finishing import retain_dealt_with
from coordinator.core.model import Branch, BranchStep, Finished, Participant, State, Transaction
from coordinator.core.phase_two import heuristic_durable
from coordinator.core.words import branch_words, finished_words, state_words
from tests.coordinator_core.driver import LOG_ID, NONCE, Driver
from troth.v1 import common_pb2, participant_pb2, record_pb2

COMMITTED = common_pb2.OUTCOME_COMMITTED


def test_an_acknowledgement_of_a_branch_that_contradicted_is_heard_while_others_are_awaited() -> None:
    driver = Driver()
    driver.run(1, "ab")
    for name in "ab":
        driver.vote(name, 1)
    driver.sync()
    driver.acknowledge("a", 1, "HAZARD")
    driver.sync()
    driver.acknowledge("a", 1, "DONE")
    driver.sync()
    driver.acknowledge("b", 1)
    driver.sync()
    assert driver.txn(1).state is State.HEURISTIC


def test_a_heuristic_that_is_durable_twice_counts_once() -> None:
    driver = Driver()
    driver.run(1, "abc")
    for name in "abc":
        driver.vote(name, 1)
    driver.sync()
    txn, missing = driver.txn(1), driver.txn(1).missing
    for why in ("first", "second"):
        report = record_pb2.Heuristic(transaction_id=txn.id, participant="a", branch_outcome=COMMITTED, why=why)
        heuristic_durable(driver.book, txn, report)
    assert (len(txn.heuristic), txn.missing) == (2, missing - 1)


def test_what_was_dealt_with_before_and_again_keeps_both_reports() -> None:
    driver = Driver()
    driver.complete(1, "ab")
    book: Book = driver.book
    forgotten = record_pb2.Forgotten(transaction_id=driver.id(1), who="ann", why="repaid")
    reports = [record_pb2.Heuristic(participant=name, why="forced") for name in "ab"]
    for report in reports:
        retain_dealt_with(book, forgotten, [report])
    done = book.finished[driver.id(1)]
    assert done.dealt_with is not None
    assert list(done.dealt_with.reports) == reports
    assert "Forgotten by ann: repaid." in finished_words(done)


def test_a_record_of_something_forgotten_whose_report_is_gone_changes_nothing() -> None:
    forgotten = record_pb2.CoordinatorRecord(forgotten=record_pb2.Forgotten(transaction_id="c1.1.0123abcd.1.1", who="ann", why="x"))
    driver = Driver()
    restarted = Driver(records=[*driver.log, forgotten.SerializeToString()])
    assert restarted.book.finished == {}


def test_words_without_names_or_causes() -> None:
    done = Finished(COMMITTED, 0, 0, (), None, None, None, recorded=True)
    assert finished_words(done) == "Finished: COMMITTED."
    txn = Transaction("c1.1.0123abcd.1.1", None, 1, State.ABORTED)
    assert state_words(txn) == "Aborted everywhere."
    branch = Branch(Participant("a"), 1, 1)
    branch.step = BranchStep.HEURISTIC
    assert "the record of it is being written" in branch_words(txn, branch, True)


def test_a_participant_that_has_heard_of_a_life_of_this_log_is_welcome() -> None:
    driver = Driver(connect=False)
    heard = participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, epoch=driver.core.epoch, nonce=NONCE)
    hello = participant_pb2.Hello(participant="a", log_id="log-a", incarnation=1, heard=[heard])
    driver.step(events.HelloReceived("a", 1, hello))
    driver.sync()
    assert driver.core.log_id == LOG_ID
    assert driver.book.participants["a"].welcomed


def test_of_a_life_that_this_log_did_not_begin_nobody_is_told_anything() -> None:
    driver = Driver()
    foreign = f"c1.{driver.core.epoch - 1}.deadbeef.1.1"
    driver.get(foreign, "ab", first_attempt_ms=driver.core.now_ms)
    (got,) = driver.take(effects.Got)
    assert got.answer.outcome == common_pb2.OUTCOME_IN_DOUBT
    assert "did not begin" in got.answer.cause.message
    assert driver.sent() == []
