"""What may lie between a client and a service: it passes a call on, and changes what comes back, or sends the client elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from participant_sdk.metadata import ACKNOWLEDGED_KEY, packed, unpacked
from troth.seals import sealed
from troth.v1 import client_pb2, participant_pb2

MANGLED = {
    "whole": "VOTED",  # nothing is changed
    "padding": "VOTED",  # base64 without its padding
    "no vote": "ASKED",
    "no seal": "ASKED",
    "forged": "ASKED",  # another vote under the same seal
    "guessed": "ASKED",  # sealed with a key of its own
    "of another": "ASKED",  # the vote of the transaction before, on what was done in this one
    "twice": "OPERATION_COUNT",  # the header comes two times
    "joined": "OPERATION_COUNT",  # the same in one, with a comma
    "kept": "OPERATION_COUNT",  # a cache that answers as before, and calls nobody
    "stranger": "stranger",  # somebody votes who is no participant
    "folded": "OPERATION_COUNT",  # a value that went over two lines: nobody knows what it was
    "dropped": "NO_CONTEXT",  # no header at all
    "garbled": "OPERATION_COUNT",
}
"""What is done to the header, and what becomes of the commit: with this vote, by asking, or ended for this reason."""


def moved_to(url: str) -> Any:
    """An ASGI application that sends whoever calls to another place, and has done nothing itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told = [(b"location", url.encode()), (b"troth-acknowledged-bin", b"")]
        await send({"type": "http.response.start", "status": 307, "headers": told})
        await send({"type": "http.response.body"})

    return app


def mangling(service: str, how: str) -> Any:
    """An ASGI application that passes calls on to the service."""
    kept: list[httpx.Response] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"content-length")]
        body = (await receive()).get("body", b"")
        answer = kept[0] if kept and how == "kept" else await _passed_on(service + scope["path"], headers, body)
        kept.append(answer)
        if how == "lost":
            raise ConnectionError("nobody hears of it")
        said = _first(answer)
        told = [(ACKNOWLEDGED_KEY, packed([said]))] if len(kept) == 1 else _HOW[how](said, _first(kept[0]))
        encoded = [(name.encode(), value.encode()) for name, value in told]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": encoded})
        await send({"type": "http.response.body", "body": answer.content})

    return app


async def _passed_on(url: str, headers: Any, body: bytes) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.post(url, headers=headers, content=body)


def _first(answer: httpx.Response) -> bytes:
    return unpacked(answer.headers[ACKNOWLEDGED_KEY])[0]


def _with(change: Callable[[client_pb2.AcknowledgedOperations, client_pb2.AcknowledgedOperations], None]) -> Any:
    """The header with something else in it; `change` gets what was said now, and what was said at first."""

    def changed(said: bytes, before: bytes) -> list[tuple[str, str]]:
        now = client_pb2.AcknowledgedOperations.FromString(said)
        change(now, client_pb2.AcknowledgedOperations.FromString(before))
        return [(ACKNOWLEDGED_KEY, packed([now.SerializeToString()]))]

    return changed


def _forge(now: Any, before: Any) -> None:
    now.vote.vote = now.vote.vote[:-1] + bytes([now.vote.vote[-1] ^ 1])


def _guess(now: Any, before: Any) -> None:
    now.vote.CopyFrom(sealed(b"guessed", participant_pb2.EarlyVote.FromString(now.vote.vote)))


def _stranger(said: bytes, before: bytes) -> list[tuple[str, str]]:
    stranger = client_pb2.AcknowledgedOperations.FromString(said)
    stranger.participant = "stranger"
    return [(ACKNOWLEDGED_KEY, packed([said, stranger.SerializeToString()]))]


def _folded(said: bytes, before: bytes) -> list[tuple[str, str]]:
    value = packed([said])
    return [(ACKNOWLEDGED_KEY, f"{value[:8]} {value[8:]}")]  # as servers hand on a value that went over two lines


_HOW: dict[str, Callable[[bytes, bytes], list[tuple[str, str]]]] = {
    "whole": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said]))],
    "padding": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said]).rstrip("="))],
    "no vote": _with(lambda now, before: now.ClearField("vote")),
    "no seal": _with(lambda now, before: now.vote.ClearField("seal")),
    "forged": _with(_forge),
    "guessed": _with(_guess),
    "of another": _with(lambda now, before: now.vote.CopyFrom(before.vote)),
    "twice": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said]))] * 2,
    "joined": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said, said]))],
    "kept": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said]))],
    "stranger": _stranger,
    "folded": _folded,
    "dropped": lambda said, before: [],
    "garbled": lambda said, before: [(ACKNOWLEDGED_KEY, packed([said[:-3]]))],
}
