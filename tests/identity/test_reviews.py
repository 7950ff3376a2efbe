"""Four eyes: what one person asks for waits until a second one has approved it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from closed_world import Start, reason_of
from private_authority import Pki

from coordinator.cli.main import run
from coordinator.config import load
from coordinator.identity.audit import lines_of
from coordinator.server import Daemon
from coordinator.services.reviews import WAITING_MAX, Reviews
from coordinator.shell_settings import ShellSettings
from participant_sdk import Tls
from troth.errors import ConfigError, Reason, RequestError
from troth.identity.peer import NOBODY, named
from troth.v1 import admin_pb2, admin_pb2_grpc, participant_pb2, participant_pb2_grpc

ADA, GRACE, NOTES = (f"spiffe://example.org/{one}" for one in ("people/ada", "people/grace", "notes"))
REPLACE = admin_pb2.ReplaceParticipantRequest(participant="notes", log_id="22" * 16, who="x", why="its disk died")


def reviews(kinds: str = "resolve, replace", clock: float = 0.0) -> Reviews:
    return Reviews(ShellSettings(reviews=kinds, review_seconds=60.0), "c1", clock=lambda: clock)


def test_what_needs_a_second_person() -> None:
    abort, commit = admin_pb2.RESOLVE_ACTION_ABORT, admin_pb2.RESOLVE_ACTION_COMMIT
    waits = reviews().needed
    assert not waits(admin_pb2.ResolveRequest(action=abort)), "what is undecided may be aborted: it contradicts nothing"
    assert waits(admin_pb2.ResolveRequest(action=abort, participant="notes"))
    assert waits(admin_pb2.ResolveRequest(action=commit))
    assert waits(admin_pb2.ResolveRequest(action=admin_pb2.RESOLVE_ACTION_ABANDON))
    assert waits(REPLACE)
    assert not waits(admin_pb2.ForgetTransactionRequest())
    assert not waits(admin_pb2.ForgetParticipantRequest())
    assert not reviews("").needed(REPLACE)


def test_a_second_person_is_another_one() -> None:
    waiting = reviews()
    one = waiting.put(REPLACE, named(ADA), "it is replaced")
    for decider in (named(ADA), NOBODY):
        with pytest.raises(RequestError) as caught:
            waiting.take(one.number, decider, approve=True)
        assert caught.value.reason is Reason.FORBIDDEN
    assert waiting.take(one.number, named(GRACE), approve=True) == one
    with pytest.raises(RequestError, match="no order"):
        waiting.take(one.number, named(GRACE), approve=True)
    again = waiting.put(REPLACE, named(ADA), "it is replaced")
    assert waiting.take(again.number, named(ADA), approve=False) == again, "who has asked may think better of it"


def test_orders_expire_and_are_so_many() -> None:
    now = 0.0
    waiting = Reviews(ShellSettings(reviews="replace", review_seconds=60.0), "c1", clock=lambda: now)
    for _ in range(WAITING_MAX):
        waiting.put(REPLACE, named(ADA), "")
    with pytest.raises(RequestError, match="wait for a second person"):
        waiting.put(REPLACE, named(ADA), "")
    now = 61.0
    assert waiting.all() == []
    waiting.put(REPLACE, named(ADA), "")


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
        await ada.ReplaceParticipant(REPLACE)
        (row,) = (await ada.ListReviews(admin_pb2.ListReviewsRequest())).reviews
        assert await _review(daemon, grace, "reject", row.review, "--why", "once is enough") == 0
        assert not (await ada.ListReviews(admin_pb2.ListReviewsRequest())).reviews
    audited = b"".join(lines_of(tmp_path / "c1" / "audit")).decode()
    assert all(text in audited for text in ("approved", "rejected", f'"asked_by":"{ADA}"', GRACE))


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
    flags = ("--tls-authorities", str(tls.authorities), "--tls-certificate", str(tls.certificate), "--tls-key", str(tls.key))
    return await asyncio.to_thread(run, ("review", *arguments, "--coordinator", daemon.address, *flags))
