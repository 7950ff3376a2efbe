"""The console without JavaScript: what is shown, what is escaped, what is refused, and what is done."""

from __future__ import annotations

import asyncio
import html
import http.client
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from coordinator.config import load
from coordinator.console import waterfall
from coordinator.console.actions import offers
from coordinator.console.app import pause_seconds
from coordinator.core import recalling
from coordinator.core.model import Participant as Known
from tests.patience import SECONDS as PATIENCE_SECONDS
from troth.errors import ConfigError
from troth.v1 import admin_pb2


class Browser:
    """Gets pages, keeps cookies, and runs nothing."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.cookies: dict[str, str] = {}
        self.headers: Mapping[str, str] = {}

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._ask, "GET", path, None, headers)

    async def post(self, path: str, form: Mapping[str, str], **headers: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._ask, "POST", path, urlencode(form), headers)

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_SECONDS)
        cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}
        connection.request(method, path, body, {**cookies, **headers})
        response = connection.getresponse()
        text = response.read().decode()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
                assert "HttpOnly" in value and "SameSite=strict" in value
        self.headers = dict(response.getheaders())
        connection.close()
        return response.status, text


def token_in(page: str) -> str:
    match = re.search(r'name="token" value="([0-9a-f]+)"', page)
    assert match is not None
    return match[1]


async def test_every_page_is_shown_and_nothing_of_peers_is_markup(shown: Any) -> None:
    browser = Browser(shown.url)
    pages = {
        "/": "Nothing needs you", "/transactions": shown.refused, f"/transactions/{shown.committed}": "Where the time went",
        f"/transactions/{shown.waiting}": "What can be done", f"/transactions/{shown.refused}": "NO_STOCK",
        "/participants": "stock", "/participants/bank": "note",
    }  # fmt: skip
    for path, expected in pages.items():
        status, text = await browser.get(path)
        assert (status, expected in text) == (200, True), (path, text)
        assert "<script>alert" not in text and "order-<7>" not in text and "style=" not in text
        assert "default-src 'none'" in browser.headers["content-security-policy"]
    assert (await browser.get("/transactions/c1.1.0badcafe.9.9"))[0] == 404
    assert (await browser.get("/participants/nobody"))[0] == 404
    assert (await browser.get("/transactions/nonsense"))[0] == 400
    assert (await browser.get("/static/console.css"))[0] == 200


async def test_a_participant_of_whom_much_is_wrong_is_shown_with_the_command_that_lists_all(
    shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalling, "lacking", lambda _: {"bank": [f"c1.1.0badcafe.5.{number}" for number in range(350)]})
    book = shown.daemon._core._book
    bank = book.participants["bank"]
    bank.stranded = {f"c9.1.0badcafe.3.{number}": b"" for number in range(350)}
    bank.operations |= {f"operation-{number}" for number in range(350)}
    for number in range(1_100):  # more than a page of participants, and one of the last has something to say
        book.participants[f"other-{number:04}"] = Known(f"other-{number:04}")
    book.participants["other-1099"].stranded = {"c9.1.0badcafe.4.1": b""}
    browser = Browser(shown.url)
    _, text = await browser.get("/participants/bank")
    assert "In doubt, and unknown here: 350" in text and text.count("c9.1.0badcafe.3.") >= 100
    assert "Commits that its log does not have: 350" in text and text.count("c1.1.0badcafe.5.") >= 100
    for kind in ("stranded", "lacking", "operations"):
        assert f"troth participants affected bank --{kind}" in text
    _, text = await browser.get("/participants/stock")
    assert "troth participants affected" not in text
    _, text = await browser.get("/")
    assert "other-1099 is in doubt about 1 branches" in text and "1102" in text


async def test_a_listing_is_narrowed_by_its_address_and_goes_on(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.console import pages

    monkeypatch.setattr(pages, "PAGE_ROWS", 2)
    browser = Browser(shown.url)
    _, text = await browser.get("/transactions")
    following = re.search(r'href="(\?[^"]+)">Next page', text)
    assert following is not None and shown.committed not in text
    _, text = await browser.get("/transactions" + html.unescape(following[1]))
    assert shown.committed in text and "First page" in text
    by_query = {"show=aborted": shown.refused, "show=preparing": shown.waiting, "since=1h&show=committed": shown.committed}
    for query, expected in by_query.items():
        _, text = await browser.get(f"/transactions?{query}&participant=bank")
        assert {one for one in (shown.committed, shown.refused, shown.waiting) if one in text} == {expected}
    _, text = await browser.get(f"/transactions?trace={'0' * 32}")
    assert "No transaction is like that" in text and f"troth txn list --finished --trace {'0' * 32}" in text
    assert (await browser.get("/transactions?trace=soon"))[0] == 400
    assert (await browser.get("/transactions?since=soon"))[0] == 400
    assert (await browser.get("/transactions?after=nonsense"))[0] == 400


async def test_an_action_needs_a_preview_the_typed_word_a_name_and_a_reason(shown: Any) -> None:
    browser = Browser(shown.url)
    path = f"/transactions/{shown.waiting}/abort"
    status, preview = await browser.get(path)
    assert status == 200 and "nothing was decided yet" in preview and "troth txn resolve" in preview
    form = {"token": token_in(preview), "who": "ann", "why": "the client is gone", "typed": "ABORT"}
    for wrong in ({"token": "0" * 64}, {"typed": "abort"}, {"why": " "}, {"who": ""}):
        assert (await browser.post(path, {**form, **wrong}))[0] == 422
    assert (await Browser(shown.url).post(path, form))[0] == 422, "another browser's token"
    assert (await browser.post(path, form, Origin="http://evil.example"))[0] == 422
    assert (await browser.get(f"/transactions/{shown.waiting}"))[1].count("PREPARING")
    status, done = await browser.post(path, form)
    assert status == 200 and "ABORTED" in done and "ann aborted it: the client is gone" in html.unescape(done)
    assert (await browser.get(path))[1].count("It would be refused")
    assert (await browser.get(f"/transactions/{shown.waiting}/explode"))[0] == 400


async def test_another_name_for_the_same_address_gets_nothing(shown: Any) -> None:
    browser = Browser(shown.url)
    status, text = await browser.get("/", Host="evil.example")
    assert status == 421 and shown.committed not in text


async def test_what_is_watched_is_told_once_and_again_when_it_changes(shown: Any) -> None:
    host = urlsplit(shown.url).netloc
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /live?page=%2Ftransactions%2F{shown.waiting} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while b"event: main" not in await reader.readline():
            pass
        assert b"PREPARING" in await reader.readline()
        shown.release.set()
        told = b""
        while b"COMMITT" not in told:  # it may be seen on its way there
            while b"event: main" not in await reader.readline():
                pass
            told = await reader.readline()
    writer.close()
    assert (await Browser(shown.url).get("/live?page=/static/console.css"))[0] == 404


def test_a_page_that_takes_long_to_make_is_looked_at_less_often() -> None:
    assert [pause_seconds(took) for took in (0.0, 0.001, 0.1, 60.0)] == [2.0, 2.0, 5.0, 10.0]


def test_offers_are_what_the_words_offer() -> None:
    words = ["abort: safe", "commit --participant p/0: MIXED", "x is away: start it", "commit or abort with --participant q: ends"]
    found = offers("t", words)
    offered = [("abort", ""), ("commit", "p/0"), ("", ""), ("commit", "q"), ("abort", "q")]
    assert [(one.verb, one.participant) for one in found] == offered
    assert found[1].command == "troth txn resolve t commit --participant p/0 --why …" and found[0].word == "ABORT"


def test_long_pauses_are_folded_and_the_order_of_bars_is_kept() -> None:
    steps = [("ACTIVE", 0), ("PREPARING", 1), ("DECIDING", 3), ("COMMITTING", 4), ("COMMITTED", 60_000)]
    timeline = admin_pb2.Timeline(
        steps=[admin_pb2.Step(state=state, at_ms=at) for state, at in steps], took_ms=60_000, repeated_ms=[30_000],
        branches=[
            admin_pb2.BranchTimes(participant="a", voted_ms=2, over_ms=5),
            admin_pb2.BranchTimes(participant="b", voted_ms=3, over_ms=-1),
        ],
    )  # fmt: skip
    drawing = waterfall.draw(timeline)
    assert [bar.kind for bar in drawing.rows[0].bars] == ["work", "vote", "decide", "commit"]
    assert [mark.says for mark in drawing.folds] == ["60.0 s"]
    ends = [bar.x + bar.width for row in drawing.rows for bar in row.bars]
    assert max(ends) <= drawing.width and len(drawing.repeats) == 1
    assert waterfall.draw(admin_pb2.Timeline()).rows[0].bars == []


def test_durations_are_said_as_people_say_them() -> None:
    said = {0: "0 ms", 0.2: "0.20 ms", 5: "5.0 ms", 250: "250 ms", 2_000: "2.0 s", 600_000: "10 min", 1e8: "27.8 h"}
    assert {ms: waterfall.duration(ms) for ms in said} == said


def test_a_console_that_others_can_reach_needs_tls_and_tokens() -> None:
    with pytest.raises(ConfigError, match="console_listen is an address that others can reach"):
        load(environment={}, flags={"console_listen": "0.0.0.0:7421"})


async def test_where_tokens_are_taken_a_browser_has_to_show_one(shown: Any) -> None:
    shown.daemon.observing.console.console._closed = True
    browser = Browser(shown.url)
    status, text = await browser.get("/transactions")
    assert status == 401 and shown.committed not in text and 'href="/sign-in"' in text
    _, form = await browser.get("/sign-in")
    assert (await browser.post("/sign-in", {"token": "0" * 64, "bearer": "secret"}))[0] == 422
    assert (await browser.post("/sign-in", {"token": token_in(form), "bearer": "secret"}))[0] == 303
    assert browser.cookies["troth_token"] == "secret"
    status, text = await browser.get("/")
    assert status == 401 and "the token is not known here" in text
