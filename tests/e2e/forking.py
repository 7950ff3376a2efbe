"""What a pre-forking server does, as a program of its own: `python forking.py SCENARIO COORDINATOR`. It prints one JSON document.

Also the WSGI application `application`, for gunicorn: the client is made when the module is imported, so before the fork with
`--preload`, and opens itself in each worker at its first request.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from participant_sdk.client import Client, SyncClient, call
from troth.errors import TrothError

CHILDREN = 8
SECONDS = 60.0
ADDRESS = os.environ.get("TROTH_COORDINATOR", "127.0.0.1:1")


async def add(client: Client) -> int:
    """One transaction; returns what its operation did."""
    done = await client.run(call("counter", "add"), timeout=SECONDS)
    return int(done.results["counter"][0])


def add_in_thread(client: SyncClient) -> int:
    """The same for a client that is not asynchronous."""
    return int(client.run(call("counter", "add"), timeout=SECONDS).results["counter"][0])


async def once(client: Client) -> int:
    """A transaction of a client that is open for it alone."""
    async with client:
        return await add(client)


def told(work: Callable[[], Any]) -> Any:
    """What came of it, in words."""
    try:
        return work()
    except TrothError as error:
        return str(error)
    except BaseException:
        return traceback.format_exc()


SILENT_SECONDS = 15.0


def in_children(count: int, work: Callable[[], Any]) -> list[Any]:
    """What came of it in each of some forked children, one after the other; a signal's number when one ended it. One that says
    nothing is killed: gRPC's handlers, which run in it before anything of ours, may wait for a thread that it has not got."""
    answers: list[Any] = []
    for _ in range(count):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            asyncio._set_running_loop(None)
            os.write(writing, json.dumps(told(work)).encode())
            os._exit(0)
        os.close(writing)
        if not select.select([reading], [], [], SILENT_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        with open(reading, "rb") as answer:
            text = answer.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.append(json.loads(text) if status == 0 else status)
    return answers


# ---- scenarios


def closed() -> Any:
    """The parent used a client and closed it."""
    first = asyncio.run(once(Client(ADDRESS)))
    return [first, *in_children(CHILDREN, lambda: asyncio.run(once(Client(ADDRESS))))]


def made() -> Any:
    """The parent made a client, and everybody enters it."""
    client = Client(ADDRESS)
    return [*in_children(CHILDREN, lambda: asyncio.run(once(client))), asyncio.run(once(client))]


def opened() -> Any:
    """The parent has a client open: its children can have none."""

    async def main() -> Any:
        async with Client(ADDRESS) as client:
            await add(client)
            new = in_children(2, lambda: asyncio.run(once(Client(ADDRESS))))
            old = in_children(2, lambda: asyncio.run(add(client)))
            return {"new": new, "old": old, "parent": await add(client)}

    return asyncio.run(main())


def sync_opened() -> Any:
    """The parent has a client open that is not asynchronous, and closes it: only after that its children can use theirs."""
    with SyncClient(ADDRESS) as client:
        begun = client.transaction()
        with begun:
            refused = in_children(2, lambda: add_in_thread(client))
            inherited = in_children(2, lambda: begun.commit().transaction_id)
    return {"refused": refused, "inherited": inherited, "closed": in_children(2, lambda: add_in_thread(client))}


def unwound() -> Any:
    """A child leaves the parent's block as if it were its own."""

    async def main() -> Any:
        reading, writing = os.pipe()
        async with Client(ADDRESS) as client:
            await add(client)
            child = os.fork()
            if child == 0:
                os.write(writing, b"forked, ")
        if child == 0:
            os.write(writing, b"left")
            os._exit(0)
        os.close(writing)
        return child, reading

    child, reading = asyncio.run(main())
    if not select.select([reading], [], [], SILENT_SECONDS)[0]:
        os.kill(child, signal.SIGKILL)  # it hangs before anything of ours, as above
    with open(reading, "rb") as answer:
        return {"child": answer.read().decode(), "status": os.waitpid(child, 0)[1]}


def work_of_a_pool(_: int) -> Any:
    """Top level, so that a spawned child finds it."""
    return told(lambda: asyncio.run(once(Client(ADDRESS))))


def pool(method: str) -> Any:
    """A pool of workers, each of which opens a client for each piece of work."""
    first = asyncio.run(once(Client(ADDRESS)))
    with multiprocessing.get_context(method).Pool(2) as workers:
        return [first, *workers.map(work_of_a_pool, range(CHILDREN), chunksize=1)]


_sync: SyncClient | None = None


def begin_worker(client: SyncClient) -> None:
    """What a worker is given when it begins: the parent's object, which opens itself at its first use."""
    global _sync
    _sync = client


def work_of_a_worker(_: int) -> Any:
    """A task of a pre-forked worker."""
    assert _sync is not None
    return told(functools.partial(add_in_thread, _sync))


def prefork() -> Any:
    """As Celery does: the application is imported in the parent, workers are forked, and use what they inherited."""
    client = SyncClient(ADDRESS)
    context = multiprocessing.get_context("fork")
    with context.Pool(2, begin_worker, (client,)) as workers:
        return workers.map(work_of_a_worker, range(CHILDREN), chunksize=1)


SCENARIOS: dict[str, Callable[[], Any]] = {
    "closed": closed,
    "made": made,
    "opened": opened,
    "sync_opened": sync_opened,
    "unwound": unwound,
    "fork": lambda: pool("fork"),
    "spawn": lambda: pool("spawn"),
    "prefork": prefork,
}

# ---- for gunicorn

if os.environ.get("USED_IN_THE_PARENT"):
    asyncio.run(once(Client(ADDRESS)))
_of_application = SyncClient(ADDRESS)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """One transaction for a request."""
    answer = told(functools.partial(add_in_thread, _of_application))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "told": answer}).encode()]


if __name__ == "__main__":
    ADDRESS = os.environ["TROTH_COORDINATOR"] = sys.argv[2]
    sys.stdout.write(json.dumps(SCENARIOS[sys.argv[1]]()))
