"""Calls over HTTP of which their caller says that they are the last ones: the services prepare when the answer begins, its headers
bring the votes, and the commit asks nobody. What does not bring them changes the price and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import httpx
import pytest
import requests
from by_hand import carrying, told
from proxies import MANGLED, mangling, moved_to
from services import Services
from web import on_uvicorn

from participant_sdk.client import Aborted, RequestError, SyncClient
from participant_sdk.metadata import ACKNOWLEDGED_KEY
from troth.errors import Reason
from troth.v1 import common_pb2

ASKED, NOT_ASKED = Counter(prepares=3, votes=3), Counter[str]()
"""Of three services that each did some work. Phase two is the same; how often a decision is told depends on who asks meanwhile."""


# ---- it saves the messages


@pytest.mark.parametrize("path", ["/do", "/threads", "/late"])
async def test_the_commit_asks_nobody(services: Services, path: str) -> None:
    """In the loop of the participant, in a thread of its server, and where the body comes after the answer has begun."""
    paths = {"a": path, "b": "/late" if path == "/late" else "/do", "c": path}
    for last, cost in ((True, NOT_ASKED), (False, ASKED)):
        before = services.messages()
        async with services.client.transaction(one_call_each=last) as tx:
            for name in ("a", "b", "c"):
                await services.post(services.tree(name, path=paths[name]))
            assert tx.acknowledged == {"a": 1, "b": 1, "c": 1}
        assert services.messages() - before == cost
    assert len(set(await services.totals())) == 1


@pytest.mark.parametrize("library", [requests.Session, httpx.Client])
async def test_code_that_is_not_asynchronous_says_so_too(services: Services, library: Any) -> None:
    def blocking() -> None:
        with SyncClient(services.coordinator) as client, client.carry(library()) as http:
            with client.transaction() as tx:
                http.post(services.urls["a"] + "/do", json={}, timeout=60).raise_for_status()
                with tx.last_call():
                    for name in ("b", "c", "a"):
                        http.post(services.urls[name] + "/do", json={}, timeout=60).raise_for_status()
            with client.transaction(one_call_each=True):
                for name in ("b", "c", "a"):
                    http.post(services.urls[name] + "/do", json={}, timeout=60).raise_for_status()

    before = services.messages()
    await asyncio.to_thread(blocking)
    assert services.messages() - before == NOT_ASKED
    assert await services.totals() == (3, 2, 2)


async def test_who_is_called_further_on_is_asked(services: Services) -> None:
    """Of whom a service calls in turn the caller knows nothing; and the vote of one that is called again from there counts all."""
    before = services.messages()
    async with services.client.transaction(one_call_each=True) as tx:
        await services.post(services.tree("a", services.tree("b", services.tree("c")), services.tree("a"), add=[1, 1]))
        assert tx.acknowledged == {"a": 3, "b": 1, "c": 1}
    assert services.messages() - before == Counter(prepares=2, votes=2)
    assert await services.totals() == (3, 1, 1)


async def test_who_has_voted_is_not_called_from_further_on(services: Services) -> None:
    with pytest.raises(Aborted) as caught:
        async with services.client.transaction(one_call_each=True):
            await services.post(services.tree("c"))
            await services.post(services.tree("a", services.tree("b", services.tree("c"))))
    assert (caught.value.reason, caught.value.participant) == (Reason.NOT_ACTIVE, "c")
    assert await services.totals() == (0, 0, 0)


async def test_a_call_that_failed_votes_nothing(services: Services) -> None:
    """It is not prepared, so it was not the last one after all: the caller may try again. What it did dooms the commit."""
    async with services.client.transaction(one_call_each=True) as tx:
        with pytest.raises(httpx.HTTPError):
            await services.post(services.tree("a", add=[-1]))
        with pytest.raises(httpx.HTTPError):
            await services.post(services.tree("b", add=[-1]))
        for name in ("a", "b"):
            await services.post(services.tree(name))
    assert tx.outcome is not None and await services.totals() == (1, 1, 0)
    for fields in ({"status": 422}, {"path": "/bug"}, {"refuses": True}):
        with pytest.raises(Aborted):
            async with services.client.transaction(one_call_each=True):
                with pytest.raises(httpx.HTTPError):
                    await services.post(services.tree("c", **fields))
                assert services.banks["c"].health.in_doubt == 0
                await services.post(services.tree("b"))
        assert await services.totals() == (1, 1, 0)  # and nothing is left that the next one would meet


async def test_a_redirection_leads_to_a_last_call(services: Services) -> None:
    before = services.messages()
    http = services.client.carry(httpx.AsyncClient(follow_redirects=True))
    moved = moved_to(services.urls["c"] + "/do")
    async with http, on_uvicorn(moved) as url, services.client.transaction(one_call_each=True):
        (await http.post(url, json={"add": [1]})).raise_for_status()
        await services.post(services.tree("a"))
    assert services.messages() - before == NOT_ASKED


async def test_a_vote_for_which_there_is_no_room_is_left_out(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("participant_sdk.early.ACKNOWLEDGED_BYTES_MAX", 40)
    before = services.messages()
    async with services.client.transaction(one_call_each=True):
        for name in ("a", "b", "c"):
            assert (vote_of(await services.post(services.tree(name)))) is None
            assert services.banks[name].health.in_doubt == 1, "it is prepared all the same, and says YES again"
    assert services.messages() - before == ASKED
    assert await services.totals() == (1, 1, 1)


async def test_an_answer_that_is_lost_after_the_vote_dooms_it(services: Services) -> None:
    """The branch is told so: nobody names it, and it is in doubt no longer."""
    async with on_uvicorn(mangling(services.urls["a"], "lost")) as url:
        with pytest.raises(Aborted):
            async with services.client.transaction(one_call_each=True):
                with pytest.raises(httpx.HTTPError):
                    await services.post({"at": url + "/do"})
                assert services.banks["a"].health.in_doubt == 1
                await services.post(services.tree("b"))
    assert await services.totals() == (0, 0, 0)
    assert services.banks["a"].health.in_doubt == 0


async def test_a_caller_that_leaves_its_block_takes_it_back(services: Services) -> None:
    with contextlib.suppress(LookupError):
        async with services.client.transaction(one_call_each=True):
            for name in ("a", "b", "c"):
                await services.post(services.tree(name))
            raise LookupError("a bug")
    assert await services.totals() == (0, 0, 0)
    assert [bank.health.in_doubt for bank in services.banks.values()] == [0, 0, 0]


# ---- what lies between, and who calls, may say anything


def vote_of(answer: httpx.Response) -> common_pb2.SealedVote | None:
    """What was voted in an answer."""
    done = told(answer)
    return done.vote if done.HasField("vote") else None


@pytest.mark.parametrize(("how", "end"), MANGLED.items())
async def test_a_vote_that_was_changed_on_its_way_makes_no_commit_of_a_half(services: Services, how: str, end: str) -> None:
    """Two transactions of the same kind: what a cache keeps of the first is no vote in the second."""
    async with on_uvicorn(mangling(services.urls["a"], how)) as url:
        async with services.client.transaction(one_call_each=True):
            await services.post({"at": url + "/do"})
            await services.post(services.tree("b"))
        before = services.messages()
        committed = end in ("ASKED", "VOTED")
        try:
            async with services.client.transaction(one_call_each=True):
                await services.post({"at": url + "/do"})
                await services.post(services.tree("b"))
        except (Aborted, RequestError) as error:
            assert not committed and end in (error.reason.name, getattr(error, "participant", "")), error
        else:
            assert committed
            assert services.messages() - before == (Counter(prepares=1, votes=1) if end == "ASKED" else NOT_ASKED)
    assert await services.totals() == ((2, 2, 0) if committed else (1, 1, 0))
    assert services.banks["a"].health.in_doubt == services.banks["b"].health.in_doubt == 0


async def test_a_last_call_of_a_transaction_that_is_none_is_undone(services: Services) -> None:
    """Whoever makes up a context prepares a branch, which asks, and is told that there is nothing to wait for."""
    async with services.client.transaction() as tx:
        own = tx.transaction_id
    made_up = common_pb2.TransactionContext(transaction_id=own.rpartition(".")[0] + ".999", call_id="1", last_call=True)
    for name in ("a", "b"):
        async with httpx.AsyncClient() as http:
            answer = await http.post(services.urls[name] + "/do", json={}, headers=carrying(made_up))
        assert answer.status_code == 200 and vote_of(answer) is not None
    assert await services.totals() == (0, 0, 0)
    assert services.banks["a"].health.in_doubt == services.banks["b"].health.in_doubt == 0


async def test_a_call_that_is_repeated_votes_again(services: Services) -> None:
    """As libraries and proxies do it when an answer was lost: nothing runs twice, and the answer is the same."""
    async with services.client.transaction() as tx:
        for name in ("a", "b"):
            context = tx.context()
            context.last_call = True
            async with httpx.AsyncClient() as http:
                first, second = [await http.post(services.urls[name] + "/do", json={}, headers=carrying(context)) for _ in range(2)]
            assert vote_of(first) == vote_of(second) is not None
            tx.acknowledge(told(second))
    assert services.messages() == NOT_ASKED
    assert await services.totals() == (1, 1, 0)


@pytest.mark.parametrize("name", ["a", "b"])
async def test_of_two_contexts_the_last_says_whether_it_is_the_last_call(services: Services, name: str) -> None:
    async with services.client.transaction() as tx:
        answers = []
        for last in (False, True):
            contexts = [tx.context() for _ in range(2)]
            contexts[0].last_call, contexts[1].last_call = not last, last
            headers = [header for context in contexts for header in carrying(context).items()]
            async with httpx.AsyncClient() as http:
                answer = await http.post(services.urls[name] + "/do", json={}, headers=headers)
            answers.append(vote_of(answer) is not None)
            tx.acknowledge(told(answer))
        assert answers == [False, True]
    assert sum(await services.totals()) == 2
    assert ACKNOWLEDGED_KEY in answer.headers
