"""A transaction over HTTP, between real servers: carried, counted at any depth, and doomed by whatever nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
from proxies import moved_to
from services import Services
from web import on_uvicorn

from participant_sdk.client import Aborted, RequestError, SyncClient
from participant_sdk.metadata import CONTEXT_KEY
from troth.errors import Reason

# ---- it takes part


async def test_what_services_did_three_deep_is_counted_and_commits(services: Services) -> None:
    tree = services.tree("a", services.tree("b", services.tree("c", add=[1, 1, 1]), add=[1, 1]), services.tree("c"), add=[7])
    async with services.client.transaction() as tx:
        counts = (await services.post(tree)).json()
        assert counts == tx.acknowledged == {"a": 1, "b": 2, "c": 4}
    assert await services.totals() == (7, 2, 4)


async def test_each_client_library_carries_it(services: Services) -> None:
    def blocking() -> None:
        with SyncClient(services.coordinator) as client, client.carry(requests.Session()) as http, client.transaction() as tx:
            for tree in (services.tree("a", path="/threads"), services.tree("b"), services.tree("c", services.tree("b"))):
                http.post(tree["at"], json=tree, timeout=60).raise_for_status()
            with client.carry(httpx.Client()) as other:
                other.post(services.urls["b"] + "/do", json={}).raise_for_status()
            assert tx.acknowledged == {"a": 1, "b": 3, "c": 1}

    await asyncio.to_thread(blocking)
    assert await services.totals() == (1, 3, 1)
    async with services.client.transaction():  # through threads of FastAPI and httpx's blocking client
        await services.post(services.tree("a", services.tree("b"), path="/threads"))
    assert await services.totals() == (2, 4, 1)


async def test_calls_outside_of_a_transaction_pass_unchanged(services: Services) -> None:
    async with services.client.carry(httpx.AsyncClient()) as http:
        answer = await http.post(services.urls["c"] + "/do", json={"add": []})
        assert answer.json() == {} and not any(name.startswith("troth") for name in answer.headers)
    with services.client.carry(requests.Session()) as session:
        answer = await asyncio.to_thread(session.post, services.urls["b"] + "/do", json={"add": []}, timeout=60)
        assert not any(name.startswith("troth") for name in answer.headers)


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_body_that_is_still_sent_is_no_part_of_it(services: Services, name: str) -> None:
    async with services.client.transaction() as tx:
        assert (await services.post(services.tree(name, path="/late"))).text == "none"
        assert tx.acknowledged == {name: 1}
    assert sum(await services.totals()) == 5


async def test_redirections_are_calls_of_their_own(services: Services) -> None:
    def blocking() -> None:
        with services.client.carry(requests.Session()) as http:
            http.post(url, json={"add": [2]}, timeout=60).raise_for_status()

    async with on_uvicorn(moved_to(services.urls["c"] + "/do")) as url, services.client.transaction() as tx:
        async with services.client.carry(httpx.AsyncClient(follow_redirects=True)) as http:
            (await http.post(url, json={"add": [1]})).raise_for_status()
        await asyncio.to_thread(blocking)
        assert tx.acknowledged == {"c": 2}
    assert await services.totals() == (0, 0, 3)


# ---- it is refused


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_refusal_reaches_the_client_with_its_code_through_services(services: Services, name: str) -> None:
    for tree in (
        services.tree(name, add=[1, -1]),
        services.tree("a", services.tree("b", services.tree(name, add=[-1]))),
        services.tree("c", services.tree(name, refuses=True), path="/threads"),
    ):
        with pytest.raises(Aborted) as caught:
            async with services.client.transaction() as tx:
                await services.post(tree)
        assert (caught.value.participant, caught.value.code) in ((name, "NO_FUNDS"), (name, "UNWILLING"))
        assert tx.refusal is not None and isinstance(caught.value.__cause__, httpx.HTTPStatusError)
    assert await services.totals() == (0, 0, 0)


async def test_a_refusal_leaves_a_block_of_requests_too(services: Services) -> None:
    def blocking() -> None:
        with SyncClient(services.coordinator) as client, client.carry(requests.Session()) as http, client.transaction():
            http.post(services.urls["b"] + "/do", json={"add": [-1]}, timeout=60).raise_for_status()

    with pytest.raises(Aborted) as caught:
        await asyncio.to_thread(blocking)
    assert (caught.value.participant, caught.value.code) == ("b", "NO_FUNDS")
    assert isinstance(caught.value.__cause__, requests.HTTPError)


async def test_a_call_that_is_no_context_is_refused(services: Services) -> None:
    for name in ("a", "b"):
        for value in ("%%%", "AAAA", ""):
            async with httpx.AsyncClient() as http:
                answer = await http.post(services.urls[name] + "/do", json={}, headers={CONTEXT_KEY: value})
            assert answer.status_code == 400 and answer.text.startswith("INVALID_ARGUMENT"), value
    assert await services.totals() == (0, 0, 0)


# ---- it is doomed


async def committed(services: Services, work: Callable[[], Any]) -> None:
    """Whoever catches the error of a call and commits all the same."""
    async with services.client.transaction():
        await services.post(services.tree("a"))
        with pytest.raises((httpx.HTTPError, RequestError)):
            await work()


@pytest.mark.parametrize(
    ("name", "fields"), [("a", {"path": "/bug"}), ("b", {"path": "/bug"}), ("c", {"status": 422}), ("c", {"refuses": True})]
)
async def test_a_call_that_failed_after_its_work_dooms_the_commit(services: Services, name: str, fields: Any) -> None:
    with pytest.raises(Aborted):
        await committed(services, lambda: services.post(services.tree(name, **fields)))
    assert await services.totals() == (0, 0, 0)


async def test_a_call_that_failed_further_on_and_was_caught_there_dooms_it_too(services: Services) -> None:
    with pytest.raises(Aborted):
        async with services.client.transaction():
            await services.post(services.tree("a", services.tree("b", path="/bug"), catches=True))
    assert await services.totals() == (0, 0, 0)


async def test_a_call_that_failed_before_any_work_does_not(services: Services) -> None:
    await committed(services, lambda: services.post(services.tree("c", add=[-1])))
    assert await services.totals() == (1, 0, 0)


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_lost_answer_dooms_it(services: Services, blocking: bool) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    def in_thread() -> None:
        with services.client.carry(requests.Session()) as http, pytest.raises(requests.ConnectionError):
            http.post(url, timeout=60)

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        with pytest.raises(Aborted):
            async with services.client.transaction():
                await services.post(services.tree("a"))
                if blocking:
                    await asyncio.to_thread(in_thread)
                else:
                    with pytest.raises(httpx.HTTPError):
                        await services.post({"at": url})
    assert await services.totals() == (0, 0, 0)


@pytest.mark.parametrize(("status", "doomed"), [(502, True), (504, True), (429, True), (403, False)])
async def test_who_answers_for_a_service_may_have_lost_its_answer(services: Services, status: int, doomed: bool) -> None:
    async with on_uvicorn(_answers(status)) as url:
        work = committed(services, lambda: services.post({"at": url}))
        if doomed:
            with pytest.raises(Aborted):
                await work
        else:
            await work
    assert await services.totals() == (0 if doomed else 1, 0, 0)


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_success_of_which_nobody_says_what_it_did_is_an_error(services: Services, blocking: bool) -> None:
    """A service without the middleware, or a proxy that drops headers."""

    def in_thread() -> None:
        with services.client.carry(requests.Session()) as http:
            http.post(url, timeout=60)

    async with on_uvicorn(_answers(200)) as url:
        with pytest.raises(RequestError, match="let proxies pass headers") as caught:
            async with services.client.transaction():
                await (asyncio.to_thread(in_thread) if blocking else services.post({"at": url}))
        assert caught.value.reason is Reason.NO_CONTEXT
        with pytest.raises(Aborted):
            await committed(services, lambda: services.post({"at": url}))


def _answers(status: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    return app


@pytest.mark.parametrize(("path", "word"), [("/many", "more than 4096"), ("/open", "a block of the branch was open")])
async def test_an_answer_that_cannot_say_what_was_done_becomes_an_error(services: Services, path: str, word: str) -> None:
    with pytest.raises((Aborted, RequestError), match=word):
        async with services.client.transaction():
            await services.post(services.tree("a", path=path))
