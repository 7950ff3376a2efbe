"""The console in Chromium: nothing breaks its own rules, it is live, it fits a phone; SCREENSHOTS=1 draws those of the docs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

from coordinator.identity.who import CALLER
from coordinator.services.admin import Admin
from troth.identity.peer import named
from troth.v1 import admin_pb2

BIN = os.environ.get("TEST_CHROMIUM_BIN", "")
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images"
SECONDS = 90_000

pytestmark = pytest.mark.skipif(not BIN, reason="Chromium is not there")


def libraries() -> dict[str, str]:
    """Where the libraries are that were unpacked with it."""
    unpacked = Path(BIN).parents[2] != Path("/")
    beside = [path for path in Path(BIN).parent.glob("*-linux-gnu*/**/") if next(path.glob("*.so*"), None)] if unpacked else []
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, beside))} if beside else dict(os.environ)


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=f"{BIN}/chromium", args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"], env=libraries()
        )
        yield browser
        await browser.close()


async def picture(page: Page, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        PICTURES.mkdir(exist_ok=True)
        await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


async def test_each_page_in_light_and_dark_and_on_a_phone(shown: Any, chromium: Browser) -> None:
    pages = {
        "console": "/", "console-transactions": "/transactions", "console-transaction": f"/transactions/{shown.committed}",
        "console-waiting": f"/transactions/{shown.waiting}", "console-confirm": f"/transactions/{shown.waiting}/abort",
        "console-participants": "/participants", "console-participant": "/participants/stock",
    }  # fmt: skip
    for scheme, size in (("light", (1100, 700)), ("dark", (390, 800))):
        context = await chromium.new_context(color_scheme=scheme, viewport={"width": size[0], "height": size[1]})  # type: ignore[arg-type]  # one of its words
        page = await context.new_page()
        wrong: list[str] = []
        page.on("console", lambda message, wrong=wrong: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        for name, path in pages.items():
            response = await page.goto(shown.url + path, timeout=SECONDS)
            assert response is not None and response.status == 200
            await page.wait_for_selector("h1", timeout=SECONDS)
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} pixels wider than the window in {scheme}"
            await picture(page, name if scheme == "light" else f"{name}-phone")
        assert wrong == []
        await context.close()


async def test_a_page_follows_what_happens_and_an_action_is_done_by_typing(shown: Any, chromium: Browser) -> None:
    watching = await chromium.new_page()
    await watching.goto(f"{shown.url}/transactions/{shown.waiting}", timeout=SECONDS)
    await watching.wait_for_selector(".live.on", timeout=SECONDS)
    acting = await chromium.new_page()
    await acting.goto(f"{shown.url}/transactions/{shown.waiting}", timeout=SECONDS)
    await acting.click("a.button.danger", timeout=SECONDS)
    await acting.fill("input[name=who]", "ann")
    await acting.fill("input[name=why]", "the client is gone")
    await acting.fill("input[name=typed]", "ABORT")
    await acting.click("button.danger")
    await acting.wait_for_selector(".card.done", timeout=SECONDS)
    await watching.wait_for_selector("main .tag:text-is('ABORTED')", timeout=SECONDS)
    for page in (watching, acting):
        await page.close()


async def test_an_invariant_that_does_not_hold_is_seen_where_people_look(shown: Any, chromium: Browser) -> None:
    page = await chromium.new_page(viewport={"width": 1100, "height": 700})
    await page.goto(f"{shown.url}/participants/stock", timeout=SECONDS)
    assert await page.locator("tr:has-text('never_negative') .tag.good").inner_text() == "holds"
    await page.goto(shown.url, timeout=SECONDS)
    await page.wait_for_selector(".live.on", timeout=SECONDS)
    shown.wrong.append("chair has -2")
    await page.wait_for_selector("li.urgent:has-text('never_negative of stock does not hold: chair has -2')", timeout=SECONDS)
    await picture(page, "console-invariant")
    await page.goto(f"{shown.url}/participants", timeout=SECONDS)
    assert await page.locator("tr:has-text('stock') .tag.bad").inner_text() == "never_negative violated"
    assert await page.locator("tr:has-text('stock') .tag:text-is('1 holds')").count() == 1
    assert await page.locator("tr:has-text('bank') .tag:text-is('2 hold')").count() == 1
    await page.goto(f"{shown.url}/participants/stock", timeout=SECONDS)
    row = page.locator("tr:has-text('never_negative')")
    assert await row.locator(".tag.bad").inner_text() == "violated" and "chair has -2" in await row.inner_text()
    await picture(page, "console-invariant-participant")
    await page.close()


async def test_an_order_that_waits_for_a_second_person_needs_you(shown: Any, chromium: Browser) -> None:
    CALLER.set(named("token:ann"))
    order = admin_pb2.ResolveRequest(
        transaction_id=shown.waiting, action=admin_pb2.RESOLVE_ACTION_ABORT, who="ann", why="the client is gone", review=True
    )  # fmt: skip
    service = Admin(shown.daemon.context, dict, lambda: None)
    assert (await service.Resolve(order, None)).refusal.reason == "AWAITS_APPROVAL"
    page = await chromium.new_page(viewport={"width": 1100, "height": 700})
    await page.goto(shown.url, timeout=SECONDS)
    item = page.locator("li:has-text('the client is gone')")
    text = await item.inner_text()
    assert "token:ann asks for Resolve ABORT" in text and "troth review list" in text
    await picture(page, "console-review")
    await page.close()


async def test_who_is_nobody_is_told_so_and_signs_in(shown: Any, chromium: Browser) -> None:
    shown.daemon.observing.console.console._closed = True
    page = await chromium.new_page(viewport={"width": 1100, "height": 700})
    response = await page.goto(f"{shown.url}/transactions", timeout=SECONDS)
    assert response is not None and response.status == 401
    await picture(page, "console-error")
    await page.click("a.button", timeout=SECONDS)
    await page.wait_for_selector("input[name=bearer]", timeout=SECONDS)
    await picture(page, "console-sign-in")
    await page.fill("input[name=bearer]", "secret")
    await page.click("form button")
    await page.wait_for_selector("text=the token is not known here", timeout=SECONDS)
    await page.close()


async def test_without_javascript_everything_is_there(shown: Any, chromium: Browser) -> None:
    context = await chromium.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(shown.url, timeout=SECONDS)
    assert "Nothing needs you" in await page.inner_text("main")
    await page.click("nav >> text=Transactions", timeout=SECONDS)
    await page.click(f"text={shown.refused}", timeout=SECONDS)
    assert "NO_STOCK" in await page.inner_text("main")
    await context.close()
