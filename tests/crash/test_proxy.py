"""The fault proxy: every fault as its peers see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from participant_sdk.testing.proxy import BOTH, DOWN, UP, Direction, FaultProxy
from tests.patience import SECONDS as PATIENCE_SECONDS

GRACE_SECONDS = 0.15
"""How long a test watches that nothing comes. It can only miss an error, never invent one."""


class Echo:
    """A server that answers each line with itself, and remembers how its connections ended."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Echo:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
        self.ended.set()
        writer.close()


class Caller:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, line: bytes) -> None:
        self.writer.write(line + b"\n")

    async def hear(self) -> bytes:
        return (await asyncio.wait_for(self.reader.readline(), PATIENCE_SECONDS)).strip()

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), GRACE_SECONDS)
        except TimeoutError:
            return True
        return False

    async def is_cut_off(self) -> bool:
        """Whether the connection ends now."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE_SECONDS) == b""
        except ConnectionError:
            return True


@contextlib.asynccontextmanager
async def wired() -> AsyncIterator[tuple[Echo, FaultProxy, Caller]]:
    async with Echo() as echo, FaultProxy(echo.address) as proxy:
        caller = await dial(proxy)
        try:
            yield echo, proxy, caller
        finally:
            caller.writer.transport.abort()


async def dial(proxy: FaultProxy) -> Caller:
    host, _, port = proxy.address.partition(":")
    return Caller(*await asyncio.open_connection(host, int(port)))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - the proxy tells nobody when a connection has ended
            await asyncio.sleep(0.005)


async def test_without_faults_everything_passes_and_is_counted() -> None:
    async with wired() as (echo, proxy, caller):
        caller.say(b"hello")
        assert await caller.hear() == b"hello"
        assert proxy.connections == 1
        await until(lambda: proxy.carried_bytes() == 12)  # it counts what it has given away
        assert (proxy.carried_bytes(UP), proxy.carried_bytes(DOWN)) == (6, 6)
        caller.writer.write_eof()
        await asyncio.wait_for(echo.ended.wait(), PATIENCE_SECONDS)
        assert await caller.is_cut_off()


async def test_much_passes_unharmed() -> None:
    async with wired() as (_, _, caller):
        line = b"x" * 40_000
        for _ in range(50):
            caller.say(line)
        for _ in range(50):
            assert await asyncio.wait_for(caller.reader.readexactly(40_001), PATIENCE_SECONDS) == line + b"\n"


async def test_a_delay_is_at_least_that_long_and_keeps_the_order() -> None:
    async with wired() as (_, proxy, caller):
        proxy.delay(0.05, jitter=0.05)
        began = asyncio.get_running_loop().time()
        for number in range(5):
            caller.say(b"%d" % number)
            await asyncio.sleep(0)
        assert [await caller.hear() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_a_throttled_line_is_slow() -> None:
    async with wired() as (_, proxy, caller):
        proxy.throttle(10_000, UP)
        began = asyncio.get_running_loop().time()
        caller.say(b"x" * 999)
        await caller.hear()
        assert asyncio.get_running_loop().time() - began >= 0.09


@pytest.mark.parametrize(("direction", "arrives"), [(UP, False), (DOWN, True), (BOTH, False)])
async def test_a_cut_is_one_way_and_what_was_held_back_comes_after_it(direction: Direction, arrives: bool) -> None:
    async with wired() as (echo, proxy, caller):
        proxy.cut(direction)
        caller.say(b"late")
        if arrives:
            await until(lambda: bool(echo.heard))
        assert await caller.hears_nothing()
        assert bool(echo.heard) is arrives
        proxy.heal()
        assert await caller.hear() == b"late"


async def test_dropped_bytes_are_gone_and_so_is_the_connection_after_it() -> None:
    async with wired() as (echo, proxy, caller):
        proxy.drop(UP)
        caller.say(b"lost")
        assert await caller.hears_nothing()
        assert echo.heard == []
        proxy.heal()
        assert await caller.is_cut_off()
        assert echo.heard == []


async def test_dropping_nothing_harms_nobody() -> None:
    async with wired() as (_, proxy, caller):
        proxy.drop()
        proxy.heal()
        caller.say(b"still here")
        assert await caller.hear() == b"still here"


async def test_a_half_open_connection_is_gone_for_one_end_only() -> None:
    async with wired() as (echo, proxy, caller):
        caller.say(b"once")
        await caller.hear()
        proxy.half_open(UP)
        await asyncio.wait_for(echo.ended.wait(), PATIENCE_SECONDS)
        caller.say(b"into the void")
        assert await caller.hears_nothing()
        assert echo.heard == [b"once\n"]
        proxy.heal()
        assert await caller.is_cut_off()


async def test_half_open_the_other_way() -> None:
    async with wired() as (echo, proxy, caller):
        caller.say(b"once")
        await caller.hear()
        proxy.half_open(DOWN)
        assert await caller.is_cut_off()
        assert not echo.ended.is_set()
        proxy.heal()
        await asyncio.wait_for(echo.ended.wait(), PATIENCE_SECONDS)


async def test_a_reset_ends_connections_and_new_ones_are_welcome() -> None:
    async with wired() as (_, proxy, caller):
        caller.say(b"a")
        await caller.hear()
        proxy.reset()
        assert await caller.is_cut_off()
        again = await dial(proxy)
        again.say(b"b")
        assert await again.hear() == b"b"
        again.writer.transport.abort()
        await until(lambda: proxy.connections == 0)


async def test_whoever_is_refused_may_come_after_the_healing() -> None:
    async with wired() as (_, proxy, caller):
        proxy.refuse()
        assert await caller.is_cut_off()
        refused = await dial(proxy)
        assert await refused.is_cut_off()
        proxy.heal()
        welcome = await dial(proxy)
        welcome.say(b"c")
        assert await welcome.hear() == b"c"
        for one in (refused, welcome):
            one.writer.transport.abort()


async def test_a_target_that_does_not_listen_is_no_connection() -> None:
    async with Echo() as echo:
        address = echo.address
    async with FaultProxy(address) as proxy:
        caller = await dial(proxy)
        assert await caller.is_cut_off()
        caller.writer.transport.abort()


async def test_the_end_of_the_proxy_is_the_end_of_its_connections() -> None:
    async with Echo() as echo:
        async with FaultProxy(echo.address) as proxy:
            caller = await dial(proxy)
            caller.say(b"a")
            await caller.hear()
            proxy.cut()
        assert await caller.is_cut_off()
        caller.writer.transport.abort()
