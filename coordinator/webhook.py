"""`on_attention`: tells a web address what needs people, whenever that changes.

A POST with JSON: `coordinator`, `came` (what is new), `went` (what is over), `now` (all that needs people). It is tried again
until it is taken, with what is true then; nothing else waits for it.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

from coordinator.attention import Item, attention
from coordinator.inside import Inside
from troth.errors import RequestError
from troth.logs import get_logger
from troth.quiet import Quiet

log = get_logger("troth.attention")

LOOK_SECONDS = 10.0
POST_SECONDS = 5.0


class Webhook:
    """Looks every some seconds, and tells what has changed."""

    def __init__(self, url: str, coordinator: str, inside: Inside, look_seconds: float = LOOK_SECONDS) -> None:
        self._url = url
        self._coordinator = coordinator
        self._inside = inside
        self._look_seconds = look_seconds
        self._quiet = Quiet()
        self._told: dict[tuple[str, str], Item] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (RequestError, OSError, ValueError) as error:
                self._quiet.tell(log.warning, "what needs people could not be told", url=_without_query(self._url), why=str(error))
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> None:
        """Look once, and tell what is not as it was told last. Raises when it is not taken."""
        now = {item.key: item for item in await attention(self._inside)}
        came = [item for key, item in now.items() if key not in self._told]
        went = [item for key, item in self._told.items() if key not in now]
        if came or went:
            document = {
                "coordinator": self._coordinator,
                "came": [item.document() for item in came],
                "went": [item.document() for item in went],
                "now": [item.document() for item in now.values()],
            }
            await asyncio.to_thread(_post, self._url, document)
            self._told = now


def _post(url: str, document: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "troth"}
    request = urllib.request.Request(url, json.dumps(document).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=POST_SECONDS) as response:
            response.read(1)
    except urllib.error.HTTPError as refusal:
        refusal.close()  # it is the answer, with its connection
        raise


def _without_query(url: str) -> str:
    return url.partition("?")[0]
