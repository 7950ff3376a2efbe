"""A log that has lost its end within a life is found out by how far it was heard, before anything more is said (rule 21)."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.core import effects, events
from tests.coordinator_core.driver import EARLIER, LOG_ID, NONCE, Driver
from troth.errors import Reason
from troth.v1 import admin_pb2, participant_pb2, record_pb2

SECOND, THIRD = "0123abce", "0123abcf"


def hello(driver: Driver, name: str, stream: int, epoch: int, nonce: str, position: int) -> list[str]:
    """Why a Hello is refused that has heard a life of the coordinator's log to a position."""
    heard = participant_pb2.Heard(coordinator="c1", log_id=LOG_ID, epoch=epoch, nonce=nonce, position=position)
    said = participant_pb2.Hello(participant=name, log_id=f"log-{name}", incarnation=1, heard=[heard])
    driver.step(events.HelloReceived(name, stream, said))
    driver.sync()
    return [effect.cause.reason for effect in driver.take(effects.Rejected) if effect.stream == stream]


def start(driver: Driver, stream: int, *starts: tuple[str, int], position: int, log_id: str = "log-d") -> list[str]:
    """What is told to d, which begins the last of these starts (each with the position before it) with its log at `position`."""
    known, after = [one for one, _ in starts], [position for _, position in starts]
    incarnation, _, nonce = known[-1].partition("/")
    said = participant_pb2.Hello(
        participant="d", log_id=log_id, incarnation=int(incarnation), nonce=nonce, starts=known, starts_after=after
    )
    driver.step(events.HelloReceived("d", stream, said, position))
    driver.sync()
    driver.step(events.ReportsReceived("d", stream, [], True))
    found = [effect.cause.reason for effect in driver.take(effects.Rejected) if effect.stream == stream]
    return found or [f"welcome {effect.heard}" for effect in driver.take(effects.Welcomed)]


def loss_of(driver: Driver, name: str) -> str:
    driver.step(events.Administer("t", admin_pb2.ListParticipantsRequest()))
    (answer,) = driver.take(effects.Administered)
    (row,) = [one for one in answer.response.participants if one.participant == name]
    text: str = row.loss
    return text


def administer(driver: Driver, request: Any) -> Any:
    driver.step(events.Administer("t", request))
    driver.sync()
    (answer,) = driver.take(effects.Administered)
    return answer.response


def replaced(driver: Driver) -> None:
    """An operator lets the log of d go on that was put back."""
    request = admin_pb2.ReplaceParticipantRequest(participant="d", who="ann", why="restored", log_id="log-d")
    assert not administer(driver, request).HasField("refusal")


# ---- the coordinator's log


def test_a_log_that_lost_its_end_within_the_life_that_was_heard_finds_out() -> None:
    first = Driver(nonce=SECOND)
    first.complete(1, "ab")
    told = len(first.log)
    driver = Driver(records=first.log[:-2], nonce=THIRD, connect=False)
    assert hello(driver, "a", 9, 1, SECOND, told) == [Reason.LOG_WENT_BACK.name]
    assert driver.core.has_lost
    assert loss_of(driver, "a").startswith(
        f"'a' has heard epoch 1 ({SECOND}) of the coordinator 'c1' to position {told}, "
        f"which ended at position {told - 2} of its log"
    )


def test_a_log_that_lost_nothing_that_was_heard_goes_on() -> None:
    first = Driver(nonce=SECOND)
    first.complete(1, "ab")
    driver = Driver(records=first.log[:-1], nonce=THIRD, connect=False)
    assert hello(driver, "a", 9, 1, SECOND, len(first.log) - 1) == [], "a record that nobody was told of may be lost"
    assert hello(driver, "b", 10, 1, SECOND, 0) == [], "software that remembers no position"
    assert hello(driver, "c", 11, 2, THIRD, len(driver.log)) == [] and not driver.core.has_lost


def test_later_lives_hide_nothing() -> None:
    first = Driver(nonce=SECOND)
    first.complete(1, "ab")
    records = first.log[:-2]
    for nonce in ("0123abd0", "0123abd1", "0123abd2"):
        records = Driver(records=records, nonce=nonce).log
    assert len(records) > len(first.log)
    driver = Driver(records=records, nonce=THIRD, connect=False)
    assert hello(driver, "a", 9, 1, SECOND, len(first.log)) == [Reason.LOG_WENT_BACK.name]
    assert hello(driver, "b", 10, 1, SECOND, len(first.log) - 2) == []


def test_where_earlier_software_began_the_next_life_its_end_is_not_known() -> None:
    old = record_pb2.CoordinatorRecord(epoch_started=record_pb2.EpochStarted(coordinator="c1", epoch=2, nonce=SECOND))
    driver = Driver(records=[EARLIER, old.SerializeToString()], nonce=THIRD, connect=False)
    assert hello(driver, "a", 9, 2, SECOND, 2) == []
    assert hello(driver, "b", 10, 2, SECOND, 3) == [Reason.LOG_WENT_BACK.name]
    assert hello(driver, "c", 11, 1, SECOND, 1) == [], "it began the life, as far as is known"


def test_one_acceptance_holds_for_all_who_have_heard_of_the_epochs_before() -> None:
    first = Driver(nonce=SECOND)
    first.complete(1, "ab")
    told = len(first.log)
    driver = Driver(records=first.log[:-2], nonce=THIRD, connect=False)
    hello(driver, "a", 9, 1, SECOND, told - 1)
    assert hello(driver, "a", 10, 1, SECOND, told - 1) == [Reason.LOG_WENT_BACK.name] and driver.kinds().count("loss") == 1
    assert administer(driver, admin_pb2.AcceptLossRequest(who="ann", why="restored")).participants == ["a"]
    assert hello(driver, "b", 11, 1, SECOND, told) == [] and not driver.core.has_lost
    again = Driver(records=driver.log, nonce="0123abd0", connect=False)
    assert [record.loss.who for record in again.core.live_records("loss/b")] == ["ann"]
    assert hello(again, "c", 12, 2, THIRD, len(driver.log) + 1) == [Reason.LOG_WENT_BACK.name], "a second loss is another one"


# ---- a participant's log


def test_a_participants_log_that_was_put_back_within_its_last_start_is_refused() -> None:
    driver = Driver()
    assert start(driver, 9, ("1/aa", 0), position=3) == ["welcome 3"]
    driver.say("d", participant_pb2.Enlist(transaction_id=driver.id(1)), position=8)
    driver.lose("d")
    assert start(driver, 10, ("1/aa", 0), ("2/bb", 5), position=6) == [Reason.LOG_WENT_BACK.name]
    assert "heard to position 8, and start 1 ended at position 5" in loss_of(driver, "d")
    assert start(driver, 11, ("1/aa", 0), ("2/bb", 5), ("3/cc", 20), position=21) == [Reason.LOG_WENT_BACK.name], "it grew since"
    assert start(driver, 12, ("1/aa", 0), ("2/bb", 8), position=9) == ["welcome 9"], "the right one comes back"
    assert loss_of(driver, "d") == ""


@pytest.mark.parametrize("starts", [[("1/aa", 0)], [("0/", 0)]])
def test_one_start_or_software_that_keeps_none_is_taken_at_its_position(starts: list[tuple[str, int]]) -> None:
    driver = Driver()
    assert start(driver, 9, ("1/aa", 0), position=3) == ["welcome 3"]
    if starts == [("0/", 0)]:
        said = participant_pb2.Hello(participant="d", log_id="log-d", incarnation=2)
        driver.step(events.HelloReceived("d", 10, said, 2))
        assert [effect.cause.reason for effect in driver.take(effects.Rejected)][-1:] == [Reason.LOG_WENT_BACK.name]
    else:
        assert start(driver, 10, *starts, position=2) == [Reason.LOG_WENT_BACK.name], "an equal incarnation with another past"


def test_software_that_tells_no_position_is_taken_at_its_starts() -> None:
    driver = Driver()
    assert start(driver, 9, ("1/aa", 0), position=3) == ["welcome 3"]
    said = participant_pb2.Hello(participant="d", log_id="log-d", incarnation=2, nonce="bb", starts=["1/aa", "2/bb"])
    driver.step(events.HelloReceived("d", 10, said))
    driver.sync()
    assert [effect.heard for effect in driver.take(effects.Welcomed)] == [3]


def test_a_file_that_went_back_behind_several_starts_that_are_kept_elsewhere_is_found_out() -> None:
    """Seed 20043: the resource's file alone; `identity.db` says of each start, truly, where it was then."""
    driver = Driver()
    assert start(driver, 9, ("1/aa", 0), position=4) == ["welcome 4"]
    assert start(driver, 10, ("1/aa", 0), ("2/bb", 5), position=2) == [Reason.LOG_WENT_BACK.name]


def test_a_log_that_is_empty_again_is_found_out() -> None:
    driver = Driver()
    assert start(driver, 9, ("1/aa", 0), position=3) == ["welcome 3"]
    assert start(driver, 10, ("1/aa", 0), ("2/bb", 0), position=0) == [Reason.LOG_WENT_BACK.name]


def test_of_starts_that_earlier_software_began_no_end_is_known() -> None:
    for after, welcomed in ((8, [9]), (6, [])):
        driver = Driver()
        assert start(driver, 9, ("1/aa", 0), position=7) == ["welcome 7"]
        said = participant_pb2.Hello(
            participant="d", log_id="log-d", incarnation=3, nonce="cc", starts=["1/aa", "2/bb", "3/cc"], starts_after=[after]
        )
        driver.step(events.HelloReceived("d", 10, said, 9))
        driver.sync()
        assert [effect.heard for effect in driver.take(effects.Welcomed)] == welcomed


def test_how_far_it_was_heard_is_in_the_record_that_what_it_said_leads_to() -> None:
    driver = Driver()
    start(driver, 9, ("1/aa", 0), position=3)
    driver.run(1, "ad")
    driver.vote("a", 1)
    vote = participant_pb2.Vote(transaction_id=driver.id(1), kind=participant_pb2.VOTE_KIND_YES)
    driver.say("d", vote, position=7)
    driver.sync()
    decided = record_pb2.CoordinatorRecord.FromString(driver.log[-1])
    assert decided.HasField("decided") and [(one.participant, one.position) for one in decided.heard] == [("d", 7)]
    again = Driver(records=driver.log, nonce=SECOND, connect=False)
    assert start(again, 9, ("1/aa", 0), ("2/bb", 6), position=7) == [Reason.LOG_WENT_BACK.name]
    assert [record.participant_bound.heard for record in again.core.live_records("participant/d")] == [7]


def test_of_many_messages_one_record_says_how_far_they_were_heard() -> None:
    driver = Driver()
    for number in (1, 2):
        driver.run(number, "ab")
        driver.vote("a", number)
    for number in (1, 2):
        vote = participant_pb2.Vote(transaction_id=driver.id(number), kind=participant_pb2.VOTE_KIND_YES)
        driver.say("b", vote, position=9)
    assert [len(append.record.heard) for append in driver.waiting] == [1, 0]


def test_frames_of_a_superseded_stream_tell_no_position() -> None:
    driver = Driver()
    driver.step(events.FromParticipant("a", 77, participant_pb2.Inquiry(transaction_id=driver.id(1)), 9))
    assert driver.book.participants["a"].heard == 0 and not driver.book.heard


def test_a_log_that_an_operator_let_take_over_begins_anew() -> None:
    driver = Driver()
    start(driver, 9, ("1/aa", 0), position=30)
    driver.lose("d")
    assert start(driver, 10, ("1/aa", 0), ("2/bb", 5), position=6) == [Reason.LOG_WENT_BACK.name]
    replaced(driver)
    assert start(driver, 11, ("1/aa", 0), ("2/bb", 5), position=6) == ["welcome 6"]
    again = Driver(records=driver.log, nonce=SECOND, connect=False)
    assert start(again, 9, ("1/aa", 0), ("2/bb", 5), ("3/cc", 6), position=7) == ["welcome 7"]
    assert NONCE not in str(again.book.participants["d"].identity)


def test_a_copy_of_the_cleaner_says_more_than_the_batch_behind_it() -> None:
    bound = record_pb2.ParticipantBound(participant="d", log_id="log-d", incarnation=1, nonce="aa", heard=9)
    behind = record_pb2.CoordinatorRecord(horizon=record_pb2.Horizon(names_sessions=True))
    behind.heard.add(participant="d", position=7)
    copied = record_pb2.CoordinatorRecord(participant_bound=bound)
    driver = Driver(records=[EARLIER, copied.SerializeToString(), behind.SerializeToString()], connect=False)
    assert driver.book.participants["d"].heard == 9
