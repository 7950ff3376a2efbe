"""Whom branches in doubt hold up, as participants tell it with questions: listed and explained, bounded, and until it is over."""

from __future__ import annotations

from typing import Any

from coordinator.core.blocking import BLOCKING_MAX, LISTED_MAX, NAME_CHARACTERS_MAX, NAMES_MAX, TOLD_SECONDS
from coordinator.core.words import blocks_words
from tests.coordinator_core.driver import WALL_MS, Driver
from tests.coordinator_core.test_operators import administer
from tests.coordinator_core.test_participants_say import FOREIGN
from troth.v1 import admin_pb2, common_pb2
from troth.v1 import participant_pb2 as pb

NOBODY = common_pb2.Blocks(lock_keys=1)


def ask(driver: Driver, name: str, blocks: common_pb2.Blocks | None = None, participant: str = "a") -> None:
    """A question of somebody in doubt."""
    driver.say(participant, pb.Inquiry(transaction_id=name, order=1, state=pb.BRANCH_STATE_PREPARED, blocks=blocks))


def in_doubt(driver: Driver, number: int = 1) -> str:
    """A transaction in which a has voted, and b has not."""
    driver.run(number, "ab", timeout_ms=60_000)
    driver.vote("a", number)
    return driver.id(number)


def row(driver: Driver, name: str = "a") -> admin_pb2.ParticipantSummary:
    """What operators read of a participant."""
    rows = administer(driver, admin_pb2.ListParticipantsRequest()).participants
    return next(one for one in rows if one.participant == name)


def branch(driver: Driver, name: str) -> admin_pb2.BranchExplanation:
    """What operators read of a's branch."""
    response = administer(driver, admin_pb2.ExplainRequest(transaction_id=name))
    return next(one for one in response.branches if one.participant == "a")


def held(waiting: int = 1, **more: Any) -> common_pb2.Blocks:
    """Somebody is held up."""
    return common_pb2.Blocks(lock_keys=2, keys=["account/#01"], waiting=waiting, **more)


def test_what_was_told_last_is_explained_with_since_when() -> None:
    driver = Driver()
    name = in_doubt(driver)
    ask(driver, name)
    assert not branch(driver, name).HasField("blocks") and not row(driver).blocking, "an older participant tells nothing"
    ask(driver, name, NOBODY)
    told = branch(driver, name)
    assert told.explanation.endswith("a says: it holds 1 lock key, nobody is held up (told 0 s ago).")
    assert not row(driver).blocking, "only who holds somebody up"
    driver.wait(5)
    ask(driver, name, held(turned_away=3))
    driver.wait(10)
    ask(driver, name, held(2, turned_away=4))
    driver.wait(3)
    told = branch(driver, name)
    assert (told.blocks.since_ms, told.blocks.told_seconds, told.blocks.blocks.waiting) == (WALL_MS + 5_000, 3.0, 2)
    assert "it holds 2 lock keys (such as account/#01); 2 requests for its locks in line; 4 requests turned away so far" in (
        told.explanation
    )
    assert [one.transaction_id for one in row(driver).blocking] == [name] and row(driver).blocking_total == 1
    assert not row(driver, "b").blocking
    driver.wait(1)
    ask(driver, name, NOBODY)
    assert not branch(driver, name).blocks.since_ms and not row(driver).blocking, "not any more"


def test_it_goes_with_the_branch_and_with_the_stream_and_with_time() -> None:
    driver = Driver()
    name = in_doubt(driver)
    ask(driver, name, held())
    driver.vote("b", 1)
    driver.sync()
    assert row(driver).blocking_total == 1, "it has not acknowledged"
    driver.acknowledge("a", 1)
    assert not driver.book.participants["a"].blocking and not row(driver).blocking_total
    name = in_doubt(driver, 2)
    ask(driver, name, held())
    driver.lose("a")
    assert not driver.book.participants["a"].blocking
    driver.connect("a", 7)
    name = in_doubt(driver, 3)
    ask(driver, name, held())
    assert row(driver).blocking_total == 1
    driver.vote("b", 3, "NO")
    assert name not in driver.book.live and not row(driver).blocking_total, "nobody acknowledges an abort"


def test_it_is_old_when_it_is_not_told_again() -> None:
    driver = Driver()
    ask(driver, FOREIGN, held())
    driver.wait(TOLD_SECONDS - 1)
    explained = administer(driver, admin_pb2.ExplainRequest(transaction_id=FOREIGN))
    assert "a says: it holds 2 lock keys" in explained.explanation and row(driver).blocking_total == 1
    driver.wait(2)
    explained = administer(driver, admin_pb2.ExplainRequest(transaction_id=FOREIGN))
    assert "a is in doubt" in explained.explanation and "says" not in explained.explanation and not row(driver).blocking_total


def foreign(number: int) -> str:
    """A transaction that another coordinator began: it stays in doubt."""
    return f"{FOREIGN.rsplit('.', 1)[0]}.{number}"


def test_it_is_bounded_in_bytes_and_in_number() -> None:
    driver = Driver()
    huge = common_pb2.Blocks(keys=["k" * 5000] * 50, waiting=1)
    huge.database.tables.extend(["t" * 5000] * 50)
    huge.database.sessions = 7
    for number in range(BLOCKING_MAX):
        ask(driver, foreign(number), huge)
    kept = driver.book.participants["a"].blocking
    (one,) = {blocks.blocks.SerializeToString(): blocks.blocks for blocks in kept.values()}.values()
    assert len(one.keys) == len(one.database.tables) == NAMES_MAX and one.ByteSize() < 2 * NAMES_MAX * (NAME_CHARACTERS_MAX + 10)
    assert one.database.sessions == 7 and len(row(driver).blocking) == LISTED_MAX and row(driver).blocking_total == BLOCKING_MAX
    ask(driver, foreign(1000), NOBODY)
    assert foreign(1000) not in kept and len(kept) == BLOCKING_MAX, "who holds nobody up takes nobody's place"
    ask(driver, foreign(50), NOBODY)
    ask(driver, foreign(1001), held())
    assert foreign(50) not in kept and foreign(0) in kept, "it takes the place of one that holds nobody up"
    ask(driver, foreign(1002), held())
    assert foreign(0) not in kept and foreign(1002) in kept and len(kept) == BLOCKING_MAX, "or of the one that was told first"
    driver.wait(TOLD_SECONDS + 1)
    ask(driver, foreign(1003), NOBODY)
    assert list(kept) == [foreign(1003)], "what is old gives its place to anybody"


def test_words_say_what_a_database_said() -> None:
    told = admin_pb2.BranchBlocks(told_seconds=4.2, since_ms=WALL_MS)
    told.blocks.database.sessions, told.blocks.database.waited_ms, told.blocks.database.asked_ago_ms = 1, 12_400, 5_000
    told.blocks.database.tables.extend(["account", "ledger"])
    said = "1 session of its database waiting for it, the first for 12 s, with locks in account, ledger (asked 5 s before that)"
    assert blocks_words(told) == f"{said}, since 2027-01-15 08:00:00 UTC or before (told 4 s ago)."
    nothing = admin_pb2.BranchBlocks(blocks=common_pb2.Blocks())
    assert blocks_words(nothing) == "it holds no lock key, nobody is held up (told 0 s ago)."
    nothing.blocks.database.asked_ago_ms = 1_000
    assert blocks_words(nothing).startswith("0 sessions of its database waiting for it (asked 1 s before that), nobody is held up")
