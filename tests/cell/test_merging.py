"""One listing out of those of several shards: nothing comes twice, nothing is missing, and pages go on where they ended."""

from __future__ import annotations

from random import Random

from coordinator.cell import merging
from coordinator.core.blocking import LISTED_MAX
from coordinator.services.context import Common
from coordinator.shell_settings import ShellSettings
from troth import features
from troth.v1 import admin_pb2, common_pb2

Rows = list[tuple[int, str]]


def page_of(rows: Rows, request: admin_pb2.ListTransactionsRequest, most: int) -> admin_pb2.ListTransactionsResponse:
    """What a shard with these rows answers, whose pages have at most so many rows."""
    after = (-1, "")
    if request.page_token:
        first, _, name = request.page_token.partition("/")
        after = (int(first), name)
    behind = sorted(row for row in rows if row > after)
    shown = behind[: min(most, request.limit)]
    page = admin_pb2.ListTransactionsResponse(total=len(rows))
    page.transactions.extend(admin_pb2.TransactionSummary(transaction_id=name, first_attempt_ms=ms) for ms, name in shown)
    if len(shown) < len(behind):
        page.next_page_token = "{}/{}".format(*shown[-1])
    return page


def test_pages_of_all_shards_together_tell_each_transaction_once_in_order() -> None:
    for seed in range(100):
        chance = Random(seed)
        shards = [[(chance.randint(0, 20), f"c1-{n:02}.{i}") for i in range(chance.randint(0, 12))] for n in range(4)]
        request, told = admin_pb2.ListTransactionsRequest(limit=chance.randint(1, 9)), Rows()
        while True:
            page = merging.transactions(request, [page_of(rows, request, chance.randint(1, 9)) for rows in shards])
            told += [(row.first_attempt_ms, row.transaction_id) for row in page.transactions]
            assert page.total == sum(map(len, shards)) and len(page.transactions) <= request.limit
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert told == sorted(row for rows in shards for row in rows), f"seed {seed}"


def test_a_participant_is_told_once_with_what_all_shards_know_of_it() -> None:
    row = admin_pb2.ParticipantSummary
    one = admin_pb2.ListParticipantsResponse(
        total=2,
        participants=[row(participant="a", connected=True, votes_owed=1, stranded=["x"], stranded_total=1), row(participant="b")],
    )
    one.participants[0].MergeFrom(row(unlisted_ended_ms=9, unlisted_epoch=1, unlisted_order=4))
    other = admin_pb2.ListParticipantsResponse(
        total=1,
        participants=[row(participant="a", incarnation=3, votes_owed=2, stranded=["x", "y"], stranded_total=2, loss="lost")],
    )
    other.participants[0].MergeFrom(row(unlisted_ended_ms=7, unlisted_epoch=2, unlisted_order=8))
    merged = merging.participants(admin_pb2.ListParticipantsRequest(), [one, other])
    assert [p.participant for p in merged.participants] == ["a", "b"] and merged.total == 2
    a = merged.participants[0]
    assert (a.connected, a.incarnation, a.votes_owed, list(a.stranded), a.loss) == (True, 3, 3, ["x", "y"], "lost")
    assert (a.unlisted_ended_ms, a.unlisted_epoch, a.unlisted_order) == (9, 1, 4)
    assert merging.participants(admin_pb2.ListParticipantsRequest(limit=1), [one, other]).next_page_token == "a"
    assert merging.participants(admin_pb2.ListParticipantsRequest(), [one]) is one


def test_branches_that_hold_somebody_up_are_told_by_the_shard_that_began_them() -> None:
    pages = []
    for shard in range(3):
        names = [(f"c{shard}.{number}", 10 * number + shard) for number in range(6)]
        blocking = [admin_pb2.BranchBlocks(transaction_id=name, since_ms=since_ms) for name, since_ms in names]
        row = admin_pb2.ParticipantSummary(participant="a", blocking=blocking, blocking_total=7)
        pages.append(admin_pb2.ListParticipantsResponse(total=1, participants=[row]))
    (a,) = merging.participants(admin_pb2.ListParticipantsRequest(), pages).participants
    assert [one.transaction_id for one in a.blocking][:4] == ["c0.0", "c1.0", "c2.0", "c0.1"]
    assert len(a.blocking) == LISTED_MAX and a.blocking_total == 21


Names = list[str]
Details = admin_pb2.ListParticipantDetailsRequest


def details_of(names: Names, request: Details, most: int) -> admin_pb2.ListParticipantDetailsResponse:
    """What a shard with these names answers, whose pages have at most so many rows."""
    behind = sorted(name for name in names if name > request.page_token)
    shown = behind[: min(most, request.limit)]
    page = admin_pb2.ListParticipantDetailsResponse(total=len(names))
    page.rows.extend(admin_pb2.ParticipantDetailRow(name=name) for name in shown)
    if len(shown) < len(behind):
        page.next_page_token = shown[-1]
    return page


def test_details_of_all_shards_together_tell_each_name_once_in_order() -> None:
    """Several shards may be told of the same branch in doubt, and one may know nobody of that name."""
    refused = admin_pb2.ListParticipantDetailsResponse(refusal=common_pb2.Cause(reason="UNKNOWN_PARTICIPANT"))
    for seed in range(100):
        chance = Random(seed)
        shards = [[f"c1-{n:02}" for n in chance.sample(range(30), chance.randint(0, 20))] for _ in range(4)]
        request, told = Details(limit=chance.randint(1, 9), detail=admin_pb2.PARTICIPANT_DETAIL_STRANDED), Names()
        while True:
            page = merging.details(request, [*(details_of(one, request, chance.randint(1, 9)) for one in shards), refused])
            told += [row.name for row in page.rows]
            assert len(page.rows) <= request.limit and max(map(len, shards)) <= page.total <= sum(map(len, shards))
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert told == sorted({name for one in shards for name in one}), f"seed {seed}"
    assert merging.details(Details(), [refused, refused]) is refused


def test_commits_that_are_lacking_are_each_of_one_shard_and_added_up() -> None:
    request = Details(limit=2, detail=admin_pb2.PARTICIPANT_DETAIL_LACKING)
    pages = [details_of(names, request, 2) for names in (["a", "c", "e"], ["b", "d"])]
    page = merging.details(request, pages)
    assert ([row.name for row in page.rows], page.total, page.next_page_token) == (["a", "b"], 5, "b")
    assert merging.details(request, pages[:1]) is pages[0]


def test_an_order_is_refused_when_all_shards_refuse_it() -> None:
    refusal = admin_pb2.AcceptLossResponse(refusal=common_pb2.Cause(reason="NOT_ACTIVE"))
    assert merging.orders([refusal, refusal]).refusal.reason == "NOT_ACTIVE"
    accepted = admin_pb2.AcceptLossResponse(participants=["b", "a"])
    assert list(merging.orders([refusal, accepted]).participants) == ["a", "b"]


def _forgotten(*refusals: tuple[str, str]) -> list[admin_pb2.ForgetParticipantResponse]:
    causes = [common_pb2.Cause(reason=reason, message=message) if reason else None for reason, message in refusals]
    return [admin_pb2.ForgetParticipantResponse(refusal=cause) for cause in causes]


def test_an_order_that_one_shard_refuses_is_not_told_as_done_because_others_have_done_it() -> None:
    done, unknown, busy = ("", ""), ("UNKNOWN_PARTICIPANT", "no participant"), ("NOT_ACTIVE", "it is connected")
    told = merging.orders(_forgotten(done, unknown, busy, done)).refusal
    assert (told.reason, "2 of 4 shards" in told.message) == ("NOT_ACTIVE", True)
    assert not merging.orders(_forgotten(done, unknown)).HasField("refusal"), "who does not know it has nothing to do with it"
    assert merging.orders(_forgotten(unknown, unknown)).refusal.reason == "UNKNOWN_PARTICIPANT"
    assert merging.orders(_forgotten(unknown, busy)).refusal.message == "it is connected"


def test_an_order_that_waits_for_a_second_person_at_each_shard_names_all_that_wait() -> None:
    unknown = ("UNKNOWN_PARTICIPANT", "no participant")
    waits = [("AWAITS_APPROVAL", f"it waits as {name}") for name in ("c-00-1", "c-01-7")]
    told = merging.orders(_forgotten(unknown, *waits)).refusal
    assert (told.reason, told.message) == ("AWAITS_APPROVAL", "it waits as c-00-1; it waits as c-01-7")


def test_participants_that_no_one_shard_knows_all_of_are_counted() -> None:
    pages = [
        admin_pb2.ListParticipantsResponse(total=1, participants=[admin_pb2.ParticipantSummary(participant=name)]) for name in "ab"
    ]
    assert merging.participants(admin_pb2.ListParticipantsRequest(), pages).total == 2


def test_counters_of_shards_are_added_up_and_those_of_the_node_are_told_once() -> None:
    common = Common(ShellSettings())
    common.counters.unary_calls = 7
    answer = admin_pb2.GetStatusResponse(
        coordinator="c1-00", epoch=2, counters={"records": 5, "unary_calls": 7},
        fills=[admin_pb2.Fill(limit="calls_max", used=1, max=2)],
    )  # fmt: skip
    merged = merging.statuses("c1", common, [answer, answer])
    assert (merged.coordinator, merged.counters["records"], merged.counters["unary_calls"], len(merged.fills)) == ("c1", 10, 7, 1)
    standing_by = merging.statuses("c1", common, [])
    assert standing_by.coordinator == "c1"
    assert {one.name for one in standing_by.features} == features.NAMES and standing_by.access, "as a node with shards tells it"
    assert merging.drains([admin_pb2.DrainResponse(undecided=1), admin_pb2.DrainResponse(undecided=2)]).undecided == 3
