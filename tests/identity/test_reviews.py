"""Four eyes: what one person asks for waits until a second one has approved it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from closed_world import PATIENCE_SECONDS, POLICY, Start, reason_of
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.core.waiting import WAITING_MAX
from coordinator.identity.audit import lines_of
from coordinator.identity.collected import about, merged
from coordinator.server import Daemon
from coordinator.services.reviews import Reviews, request_of
from coordinator.shell_settings import ShellSettings
from participant_sdk import Tls
from tests.coordinator_core.driver import Driver
from tests.coordinator_core.test_operators import administer
from troth.errors import ConfigError, Reason, RequestError
from troth.identity.peer import NOBODY, named
from troth.log.sqlite import SqliteLog
from troth.ready import Append
from troth.v1 import admin_pb2, admin_pb2_grpc, common_pb2, participant_pb2, participant_pb2_grpc, record_pb2

ADA, GRACE, NOTES = (f"spiffe://example.org/{one}" for one in ("people/ada", "people/grace", "notes"))
REPLACE = admin_pb2.ReplaceParticipantRequest(participant="notes", log_id="22" * 16, who="x", why="its disk died")


class World:
    """Reviews on a core whose log is in memory."""

    def __init__(self, records: list[bytes] | None = None, kinds: str = "resolve, replace") -> None:
        self.driver = Driver(records=records, connect=False)
        self.reviews = Reviews(ShellSettings(reviews=kinds, review_seconds=60.0), "c1", self.driver.core, self._ask)

    async def _ask(self, request: Any) -> Any:
        return administer(self.driver, request)


def test_what_needs_a_second_person() -> None:
    abort, commit = admin_pb2.RESOLVE_ACTION_ABORT, admin_pb2.RESOLVE_ACTION_COMMIT
    waits = World().reviews.needed
    assert not waits(admin_pb2.ResolveRequest(action=abort)), "what is undecided may be aborted: it contradicts nothing"
    assert waits(admin_pb2.ResolveRequest(action=abort, participant="notes"))
    assert waits(admin_pb2.ResolveRequest(action=commit))
    assert waits(admin_pb2.ResolveRequest(action=admin_pb2.RESOLVE_ACTION_ABANDON))
    assert waits(REPLACE)
    assert not waits(admin_pb2.ForgetTransactionRequest())
    assert not waits(admin_pb2.ForgetParticipantRequest())
    assert not World(kinds="").reviews.needed(REPLACE)


async def test_a_second_person_is_another_one() -> None:
    waiting = World().reviews
    one = await waiting.put(REPLACE, named(ADA), "it is replaced")
    for decider in (named(ADA), NOBODY):
        with pytest.raises(RequestError) as caught:
            waiting.find(one.review, decider, approve=True)
        assert caught.value.reason is Reason.FORBIDDEN
    assert waiting.find(one.review, named(ADA), approve=False) == one, "who has asked may think better of it"
    found = waiting.find(one.review, named(GRACE), approve=True)
    assert request_of(found) == REPLACE
    await waiting.take(one.review)
    with pytest.raises(RequestError, match="no order"):
        waiting.find(one.review, named(GRACE), approve=True)
    with pytest.raises(RequestError, match="no order"):
        await waiting.take(one.review)


async def test_an_order_may_ask_for_a_second_person_itself_and_waits_once() -> None:
    waiting = World(kinds="").reviews
    order = admin_pb2.ResolveRequest(
        transaction_id="c1.1.0badcafe.1.1", participant="notes", action=admin_pb2.RESOLVE_ACTION_COMMIT, why="a", review=True
    )
    assert waiting.needed(order)
    one = await waiting.put(order, named(ADA), "")
    order.why = "b"
    assert (await waiting.put(order, named(ADA), "")) == one, "the same, whatever is said of why"
    assert await waiting.put(order, named(GRACE), "") != one
    order.action = admin_pb2.RESOLVE_ACTION_ABORT
    assert await waiting.put(order, named(ADA), "") != one
    assert len(waiting.all()) == 3


async def test_orders_expire_and_are_so_many() -> None:
    world = World()
    waiting = world.reviews
    first = await waiting.put(REPLACE, named(ADA), "")
    assert 59 < waiting.seconds_left(first) <= 60
    for _ in range(WAITING_MAX - 1):
        await waiting.put(REPLACE, named(ADA), "")
    with pytest.raises(RequestError, match="wait for a second person"):
        await waiting.put(REPLACE, named(ADA), "")
    world.driver.wait(61.0)
    assert list(waiting.all()) == []
    with pytest.raises(RequestError, match="no order"):
        await waiting.take(first.review)
    await waiting.put(REPLACE, named(ADA), "")


async def test_orders_outlive_a_restart() -> None:
    world = World()
    kept, taken = [await world.reviews.put(REPLACE, named(ADA), "it is replaced") for _ in range(2)]
    await world.reviews.take(taken.review)
    assert list(World(world.driver.log).reviews.all()) == [kept]


@pytest.mark.parametrize(("flags", "told"), [({"reviews": "drain"}, "it may have"), ({"reviews": "replace"}, "there is no policy")])
def test_settings_that_are_refused(flags: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(environment={}, flags=flags)


async def test_from_the_order_to_its_approval(
    start: Start, pki: Pki, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = await start(reviews="replace")
    await _let_notes_be_known(daemon, pki)
    with (tmp_path / "policy.toml").open("a") as policy:
        policy.write('\n[[grant]]\nto = ["spiffe://example.org/people/grace"]\nroles = ["administrator"]\n')
    async with asyncio.timeout(30):
        while not daemon.context.common.gate.decision(GRACE, "review", "*").allowed:  # noqa: ASYNC110 - looked at once a second
            await asyncio.sleep(0.05)
    async with grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as channel:
        ada = admin_pb2_grpc.AdminServiceStub(channel)
        refused = (await ada.ReplaceParticipant(REPLACE)).refusal
        assert refused.reason == "AWAITS_APPROVAL"
        (row,) = (await ada.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert (row.who, row.order, row.why) == (ADA, "ReplaceParticipant", "its disk died")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ada.DecideReview(admin_pb2.DecideReviewRequest(review=row.review, approve=True, why="because"))
        assert reason_of(caught.value) == "FORBIDDEN"
        (known,) = (await ada.ListParticipants(admin_pb2.ListParticipantsRequest())).participants
        assert known.awaited_log_id == ""
        grace = pki.tls("grace", GRACE)
        for arguments in (("list",), ("list", "--json"), ("show", row.review), ("show", row.review, "--json")):
            assert await _review(daemon, grace, *arguments) == 0
        assert "its disk died" in capsys.readouterr().out
        assert await _review(daemon, grace, "show", "c1-00000000") == 1
        assert await _review(daemon, grace, "approve", row.review, "--why", "checked", "--yes") == 0
        (known,) = (await ada.ListParticipants(admin_pb2.ListParticipantsRequest())).participants
        assert known.awaited_log_id == "22" * 16
        told = [one.entry for one in about(merged({"c1": tmp_path / "c1" / "audit"}), row.review)]
        assert [(one["kind"], one["action"], one["who"]) for one in told] == [
            ("asked", "Review", ADA), ("asked", "Review", GRACE), ("asked", "ReplaceParticipant", GRACE),
            ("done", "ReplaceParticipant", GRACE),
        ]  # fmt: skip
        await ada.ReplaceParticipant(REPLACE)
    await daemon.stop()
    daemon = await start(reviews="replace", policy=str(_with_grace(tmp_path)))
    async with grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as channel:
        ada = admin_pb2_grpc.AdminServiceStub(channel)
        (row,) = (await ada.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert (row.who, row.order, row.why) == (ADA, "ReplaceParticipant", "its disk died"), "a restart forgets no order"
        assert await _review(daemon, grace, "reject", row.review, "--why", "once is enough") == 0
        assert not (await ada.ListReviews(admin_pb2.ListReviewsRequest())).reviews
    audited = b"".join(lines_of(tmp_path / "c1" / "audit")).decode()
    assert all(text in audited for text in ("approved", "rejected", f'"asked_by":"{ADA}"', GRACE))


def _with_grace(tmp_path: Path) -> Path:
    policy = tmp_path / "with-grace.toml"
    policy.write_text(POLICY + '\n[[grant]]\nto = ["spiffe://example.org/people/grace"]\nroles = ["administrator"]\n')
    return policy


async def test_who_has_lost_the_right_meanwhile_has_nothing_done_by_another(start: Start, pki: Pki, tmp_path: Path) -> None:
    policy = _with_grace(tmp_path)
    daemon = await start(reviews="replace", policy=str(policy))
    await _let_notes_be_known(daemon, pki)
    async with (
        grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as of_ada,
        grpc.aio.secure_channel(daemon.address, pki.tls("grace", GRACE).channel_credentials()) as of_grace,
    ):
        await admin_pb2_grpc.AdminServiceStub(of_ada).ReplaceParticipant(REPLACE)
        grace = admin_pb2_grpc.AdminServiceStub(of_grace)
        (row,) = (await grace.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        policy.write_text(policy.read_text().replace(ADA, "spiffe://example.org/people/nobody"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while daemon.context.common.gate.decision(ADA, "administer", "notes").allowed:  # noqa: ASYNC110 - looked at once a second
                await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await grace.DecideReview(admin_pb2.DecideReviewRequest(review=row.review, approve=True, why="because"))
        assert reason_of(caught.value) == "FORBIDDEN"
        assert (await grace.ListReviews(admin_pb2.ListReviewsRequest())).reviews, "it still waits"


async def test_an_order_whose_payload_key_is_gone_waits_until_it_is_back_and_can_be_rejected(
    start: Start, pki: Pki, tmp_path: Path
) -> None:
    keys, policy = str(tmp_path / "keys.toml"), str(_with_grace(tmp_path))
    assert run(("keys", "init", "--file", keys)) == 0
    daemon = await start(reviews="replace", policy=policy, payload_keys=keys)
    await _let_notes_be_known(daemon, pki)
    async with grpc.aio.secure_channel(daemon.address, pki.tls("ada", ADA).channel_credentials()) as of_ada:
        for _ in range(2):
            await admin_pb2_grpc.AdminServiceStub(of_ada).ReplaceParticipant(REPLACE)
    await daemon.stop()
    daemon = await start(reviews="replace", policy=policy)
    async with grpc.aio.secure_channel(daemon.address, pki.tls("grace", GRACE).channel_credentials()) as of_grace:
        grace = admin_pb2_grpc.AdminServiceStub(of_grace)
        one, other = (await grace.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert (one.who, one.order, one.object, one.why) == (ADA, "ReplaceParticipant", "", "")
        assert "its payload key is not there" in one.would
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await grace.DecideReview(admin_pb2.DecideReviewRequest(review=one.review, approve=True, why="because"))
        assert reason_of(caught.value) == "PAYLOAD_KEY_MISSING"
        await grace.DecideReview(admin_pb2.DecideReviewRequest(review=other.review, approve=False, why="because"))
    await daemon.stop()
    daemon = await start(reviews="replace", policy=policy, payload_keys=keys)
    async with grpc.aio.secure_channel(daemon.address, pki.tls("grace", GRACE).channel_credentials()) as of_grace:
        grace = admin_pb2_grpc.AdminServiceStub(of_grace)
        (row,) = (await grace.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert (row.review, row.why) == (one.review, "its disk died")
        await grace.DecideReview(admin_pb2.DecideReviewRequest(review=row.review, approve=True, why="because"))
        (known,) = (await grace.ListParticipants(admin_pb2.ListParticipantsRequest())).participants
        assert known.awaited_log_id == "22" * 16


async def test_what_a_peers_log_proves_waits_for_a_second_person(start: Start, pki: Pki, tmp_path: Path) -> None:
    """`troth reconcile --apply`: `notes` is in doubt about what this log has never begun, and a peer has committed it."""
    daemon, transaction = await start(), "c1.7.9f2c4e1a.3.42"
    record = record_pb2.ParticipantRecord
    committed = record_pb2.BranchFinished(transaction_id=transaction, outcome=common_pb2.OUTCOME_COMMITTED)
    held = {"notes": record(branch_prepared=record_pb2.BranchPrepared(transaction_id=transaction, order=1)),
            "peer": record(branch_finished=committed)}  # fmt: skip
    for name, one in held.items():
        log = SqliteLog(tmp_path / f"{name}.db", role="participant", name=name)
        await log.open()
        await log.write([Append(one)], sync=True)
        await log.close()
    files = [word for name in held for word in ("--file", str(tmp_path / f"{name}.db"))]
    async with grpc.aio.secure_channel(daemon.address, pki.tls("notes", NOTES).channel_credentials()) as channel:
        stream = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
        report = participant_pb2.BranchReport(transaction_id=transaction, order=1, state=participant_pb2.BRANCH_STATE_PREPARED)
        hello = participant_pb2.Hello(participant="notes", log_id="11" * 16, incarnation=1)
        hello.protocol.lowest = hello.protocol.highest = 1
        await stream.write(participant_pb2.SessionRequest(hello=hello))
        assert (await stream.read()).HasField("welcome")
        await stream.write(participant_pb2.SessionRequest(reports=[report], reports_complete=True))
        await stream.write(participant_pb2.SessionRequest(inquiries=[participant_pb2.Inquiry(transaction_id=transaction, order=1)]))
        ada = pki.tls("ada", ADA)
        async with grpc.aio.secure_channel(daemon.address, ada.channel_credentials()) as own, asyncio.timeout(60):
            admin = admin_pb2_grpc.AdminServiceStub(own)
            everybody = admin_pb2.ListParticipantsRequest()
            while not (await admin.ListParticipants(everybody)).participants[0].stranded_total:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.05)
            for _ in range(2):
                assert await _command(daemon, ada, "reconcile", *files, "--apply") == 1
            (row,) = (await admin.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert (row.who, row.order, row.object) == (ADA, "Resolve COMMIT", f"{transaction} notes")
        assert "the log of peer proves COMMIT" in row.why
        stream.cancel()


async def _let_notes_be_known(daemon: Daemon, pki: Pki) -> None:
    async with grpc.aio.secure_channel(daemon.address, pki.tls("notes", NOTES).channel_credentials()) as channel:
        stream = participant_pb2_grpc.ParticipantServiceStub(channel).Session()
        hello = participant_pb2.Hello(participant="notes", log_id="11" * 16, incarnation=1)
        hello.protocol.lowest = hello.protocol.highest = 1
        await stream.write(participant_pb2.SessionRequest(hello=hello, reports_complete=True))
        assert (await stream.read()).HasField("welcome")
        stream.cancel()
    async with asyncio.timeout(30):
        while daemon.participants.open_streams():  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.01)


async def _review(daemon: Daemon, tls: Tls, *arguments: str) -> int:
    return await _command(daemon, tls, "review", *arguments)


async def _command(daemon: Daemon, tls: Tls, *arguments: str) -> int:
    flags = ("--tls-authorities", str(tls.authorities), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    return await asyncio.to_thread(run, (*arguments, "--coordinator", daemon.address, *flags))
