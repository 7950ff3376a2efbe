"""What the banks, their clients and their checker agree on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc

from participant_sdk import Participant

ACCOUNTS = 40
"""Accounts of one bank: a00, a01, ..."""
OPENING = 1000
"""What everybody has at first."""
METHOD = "/crash.Bank/Move"
"""The banks' own API: JSON with the arguments of `move`."""


def api(bank: Participant) -> Callable[[grpc.aio.Server], None]:
    """The bank's own API, for callers inside an interactive transaction: what adds it to a server."""

    async def serve_move(request: bytes, context: object) -> bytes:
        branch = bank.branch()
        asked = json.loads(request)
        if asked["amount"] % 2:
            await branch.caller()  # who it is makes no difference here: it is a question more that can get lost
        balance: Any = await branch.run("move", **asked)
        return json.dumps(balance).encode()

    def register(server: grpc.aio.Server) -> None:
        service, _, method = METHOD[1:].partition("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(serve_move)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    return register
