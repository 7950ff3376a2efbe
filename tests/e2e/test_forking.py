"""Clients and participants in processes that fork: servers that fork their workers, pools, helpers that outlive a service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import load
from coordinator.server import make_daemon
from participant_sdk import LogBranch, LogResource, Participant, SqliteResource
from participant_sdk.client import Client, call
from tests.redis_server import RedisServer
from troth.errors import RequestError

HERE = Path(__file__).parent
SECONDS = 240.0
"""More than four children take that say nothing, one after the other."""


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[str]:
    """A daemon, and a participant that counts."""
    settings = {"data_directory": str(tmp_path / "c1"), "listen": "127.0.0.1:0"}
    daemon = make_daemon(load(flags=settings, environment={}).config)
    await daemon.start()
    counter = Participant("counter", resource=LogResource(), data_directory=tmp_path / "counter", coordinator=daemon.address)
    count = [0]

    @counter.operation(locks=[])
    def add(branch: LogBranch) -> int:
        branch.read_only()
        count[0] += 1
        return count[0]

    async with counter:
        await counter.wait_connected()
        yield daemon.address
    await daemon.stop()


def environment(**extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TROTH_", "GRPC_"))}
    patient = {"UVICORN_TIMEOUT_WORKER_HEALTHCHECK": "240"}  # else a worker is killed that is silent for 5 s
    return {**clean, **patient, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}", **extra}


async def run(*command: str, **extra: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(**extra)
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-3000:]
    return out


async def scenario(name: str, coordinator: str) -> Any:
    return json.loads(await run(str(HERE / "forking.py"), name, coordinator))


@pytest.mark.parametrize(("name", "count"), [("closed", 9), ("made", 9), ("prefork", 8), ("fork", 9), ("spawn", 9)])
async def test_each_process_has_a_client_of_its_own(name: str, count: int, coordinator: str) -> None:
    assert sorted(await scenario(name, coordinator)) == list(range(1, count + 1))


async def test_a_child_of_a_process_with_an_open_client_is_told_so(coordinator: str) -> None:
    told = await scenario("opened", coordinator)
    assert told["parent"] == 2
    # Some such children crash or hang inside gRPC, at places that have nothing to do with it (grpc/grpc#19793). None works.
    wrong = "this process was forked while a client or a participant was open in its parent"
    assert all(isinstance(new, int) or wrong in new for new in told["new"]), told
    wrong = "this client was entered before the process was forked"
    assert all(isinstance(old, int) or wrong in old for old in told["old"]), told


async def test_a_synchronous_client_opens_itself_in_each_process_or_says_why_not(coordinator: str) -> None:
    said = await scenario("sync_opened", coordinator)
    wrong = "this process was forked while a client or a participant was open in its parent"
    assert all(isinstance(one, int) or wrong in one for one in said["refused"]), said
    assert all(isinstance(one, int) or "belongs to the process that was forked" in one for one in said["inherited"]), said
    assert sorted(said["closed"]) == [1, 2]


async def test_a_child_that_leaves_its_parents_block_leaves_at_once(coordinator: str) -> None:
    told = await scenario("unwound", coordinator)
    # Some children of a process with open channels crash inside gRPC (grpc/grpc#19793). None stays, or fails in our code.
    assert told == {"child": "forked, left", "status": 0} or os.WIFSIGNALED(told["status"]), told


# ---- gunicorn


@contextlib.asynccontextmanager
async def gunicorn(*options: str, **extra: str) -> AsyncIterator[str]:
    """The application of `forking.py` under gunicorn with two workers, on a socket of ours; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        number = str(listener.fileno())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"fd://{number}", "--timeout", f"{2 * SECONDS:.0f}",
            *options, "forking:application",
            env=environment(**extra), pass_fds=[listener.fileno()], stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            process.terminate()
            _, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]


def ask(url: str) -> Any:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + SECONDS
    while True:
        try:
            with direct.open(url, timeout=SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.URLError as error:
            # uvicorn says that it runs before its workers listen.
            if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > until:
                raise
        time.sleep(0.05)


@pytest.mark.parametrize("used", ["", "1"], ids=["unused", "used-in-the-parent"])
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
async def test_gunicorn(options: tuple[str, ...], used: str, coordinator: str) -> None:
    async with gunicorn(*options, TROTH_COORDINATOR=coordinator, USED_IN_THE_PARENT=used) as url:
        answers = await asyncio.gather(*(asyncio.to_thread(ask, url) for _ in range(8)))
    told = [answer["told"] for answer in answers]
    # Whoever imports the application adds one more: the parent, or each worker, the second perhaps after the first has answered.
    imports = len(("parent",) if options else ("worker", "worker")) if used else 0
    assert len(set(told)) == len(told) and set(told) <= set(range(1, 9 + imports))


# ---- uvicorn, Celery


@contextlib.asynccontextmanager
async def program(*command: str, **extra: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A server of others as a process; it has to end in order when it is told to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment(**extra), cwd=HERE, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        _, err = await process.communicate()
    assert process.returncode in (0, -signal.SIGTERM) and b"Traceback" not in err, err.decode()[-3000:]


async def said(process: asyncio.subprocess.Process, what: str) -> re.Match[str]:
    """Wait until it says something on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(SECONDS):
        async for line in process.stderr:
            if match := re.search(what, line.decode()):
                return match
    raise AssertionError(f"{what} was never said")


async def test_uvicorn_with_two_workers(coordinator: str) -> None:
    command = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "0", "--workers", "2", "servers:asgi")
    async with program(*command, TROTH_COORDINATOR=coordinator) as server:
        url = (await said(server, r"running on (http://\S+)"))[1]
        await said(server, "startup complete")
        answers = await asyncio.gather(*(asyncio.to_thread(ask, url) for _ in range(8)))
    assert sorted(answer["told"] for answer in answers) == list(range(1, 9))
    assert server.pid not in {answer["pid"] for answer in answers}


async def test_a_celery_worker_that_forks_its_workers(coordinator: str) -> None:
    worker = ("-m", "celery", "--app", "servers:celery", "worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO",
              "--without-mingle", "--without-gossip", "--without-heartbeat")  # fmt: skip
    with RedisServer() as redis:
        extra = {"TROTH_COORDINATOR": coordinator, "CELERY_REDIS": f"redis://127.0.0.1:{redis.port}/0"}
        async with program(*worker, **extra) as running:
            await said(running, "ready")
            done = json.loads(await run(str(HERE / "servers.py"), **extra))
    assert sorted(number for _, number in done) == list(range(1, 9))
    assert running.pid not in {process for process, _ in done}


# ---- loops


async def test_a_client_in_another_loop_is_told_so(coordinator: str) -> None:
    async with Client(coordinator) as client:
        for work in (lambda: client.run(call("counter", "add")), lambda: client.get("c1.1.00000000.1.1")):
            with pytest.raises(RequestError, match="another event loop"):
                await asyncio.to_thread(lambda work=work: asyncio.run(work()))
        assert (await client.run(call("counter", "add"))).results == {"counter": [1]}


async def test_a_participant_in_another_loop_is_told_so(coordinator: str, tmp_path: Path) -> None:
    store = Participant("store", resource=SqliteResource(tmp_path / "s.db"), data_directory=tmp_path, coordinator=coordinator)
    async with store:
        with pytest.raises(RequestError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(store.read(lambda db: None)))
        assert await store.read(lambda db: 1) == 1


# ---- what a child inherits

SERVICE = """
import asyncio, os, sys, threading, time
from participant_sdk import Participant, SqliteResource
SCHEMA = "CREATE TABLE IF NOT EXISTS kept (n INTEGER PRIMARY KEY NOT NULL)"
directory, coordinator, how = sys.argv[1:]
resource = SqliteResource(f"{directory}/s.db", schema=SCHEMA)
store = Participant("store", resource=resource, data_directory=directory, coordinator=coordinator)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
def do(work): return asyncio.run_coroutine_threadsafe(work, loop).result(120)
def insert(db): db.execute("INSERT INTO kept SELECT 1 + count(*) FROM kept")
do(store.start())
do(store.wait_connected())
do(store.local(insert))
def ended(child):             # what gRPC does in it before anything of ours may crash it, or wait for ever: then there is another
    until = time.monotonic() + 15
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False
for _ in range(8):
    child = os.fork()
    if child == 0:
        if how == "ends":
            sys.exit(0)       # in order: the interpreter frees what it has
        os.close(1)
        sys.stdin.read()      # until the test lets it go
        os._exit(0)
    if how == "lives" or ended(child):
        break
else:
    sys.exit("not one child ended in order")
do(store.local(insert))
print(*do(store.read(lambda db: [n for (n,) in db.execute("SELECT n FROM kept")])), flush=True)
do(store.serve())
"""


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


async def serve(directory: Path, coordinator: str, how: str, stdin: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, str(directory), coordinator, how,
        stdin=stdin, stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.readline()).decode().strip()


async def killed(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


@pytest.mark.parametrize("how", ["lives", "ends"])
async def test_a_child_neither_keeps_the_file_nor_loses_what_is_in_it(how: str, coordinator: str, tmp_path: Path) -> None:
    """A helper that outlives its service kept the lock; one that ended in an orderly way deleted the write-ahead log."""
    with pipe() as (held, _):
        said = []
        for _ in range(2):
            process = await serve(tmp_path, coordinator, how, held)
            said.append(await first_line(process))
            await killed(process)
    assert said == ["1 2", "1 2 3 4"]
