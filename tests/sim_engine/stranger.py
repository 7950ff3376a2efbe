"""A stranger: a process that dials like everybody else, and says what it may not.

What it says it has overheard: votes, acknowledgements, answers and lists of other participants, as they were said or turned into
their contrary, and transactions of other clients' sessions. It says so under a name of its own; under another's name, with a Hello
that is another log's, an older start's, or another process's; before it is welcomed; and as a client, of transactions that are not
its own. Nothing may come of it: no outcome, no vote, no answer that is not a refusal, and for everybody else nothing but what the
network does to them anyhow. (Who says all of another's Hello, nonce and log included, cannot be told from him: that is for TLS.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import grpc.aio

from participant_sdk.client.connection import METHOD as CLIENT_METHOD
from participant_sdk.session import METHOD as PARTICIPANT_METHOD
from tests.sim.clients import History
from tests.sim_engine.loop import EngineWorld
from tests.sim_engine.network import Network
from tests.sim_engine.process import Process
from tests.sim_engine.roles import ADDRESS
from troth.v1 import client_pb2, common_pb2, participant_pb2

NAME = "stranger"
EVERY = 3
"""In how many runs there is one: in one out of so many."""
PATIENCE_SECONDS = 0.5
SAID = ("votes", "acknowledgements", "settlements", "inquiries", "reports")
"""What a participant says of branches. Not `enlists`: a participant may take part in any transaction, and be why it aborts."""
CONTRARY: dict[str, dict[int, int]] = {
    "votes": {
        participant_pb2.VOTE_KIND_NO: participant_pb2.VOTE_KIND_YES,
        participant_pb2.VOTE_KIND_YES: participant_pb2.VOTE_KIND_COMMITTED,
        participant_pb2.VOTE_KIND_COMMITTED: participant_pb2.VOTE_KIND_NO,
    },
    "acknowledgements": {
        participant_pb2.ACKNOWLEDGEMENT_KIND_HAZARD: participant_pb2.ACKNOWLEDGEMENT_KIND_DONE,
        participant_pb2.ACKNOWLEDGEMENT_KIND_DONE: participant_pb2.ACKNOWLEDGEMENT_KIND_FORCED_ABORT,
    },
    "settlements": {
        participant_pb2.SETTLEMENT_KIND_ROLLED_BACK: participant_pb2.SETTLEMENT_KIND_COMMITTED,
        participant_pb2.SETTLEMENT_KIND_COMMITTED: participant_pb2.SETTLEMENT_KIND_ROLLED_BACK,
        participant_pb2.SETTLEMENT_KIND_PREPARED: participant_pb2.SETTLEMENT_KIND_ROLLED_BACK,
    },
}


class Stranger(Process):
    """It has no disk, and nothing to lose."""

    def __init__(self, world: EngineWorld, network: Network, history: History, seed: int) -> None:
        super().__init__(world, network, NAME)
        self._random = Random(f"stranger {seed}")
        self._history = history
        self.lives_said = 0

    async def main(self) -> None:
        """Go on until killed."""
        while True:
            await asyncio.sleep(self._random.uniform(0.01, 0.2))
            way = self._random.choice((self._as_itself, self._as_itself, self._as_another, self._as_client))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await way()
            except (TimeoutError, grpc.aio.AioRpcError):
                continue

    def _dial(self, method: str, response: Callable[[bytes], Any]) -> Any:
        channel = self.network.insecure_channel(f"{ADDRESS}:1")
        return channel.stream_stream(method, lambda message: message.SerializeToString(), response)()

    # ---- as a participant

    async def _as_itself(self) -> None:
        """Welcomed under its own name, it speaks of others' branches."""
        self.lives_said += 1
        hello = participant_pb2.Hello(
            protocol=common_pb2.ProtocolRange(lowest=1, highest=1), participant=NAME, log_id="5" * 32, incarnation=self.lives_said,
            nonce=f"{self.lives_said:08x}",
        )  # fmt: skip
        call = self._dial(PARTICIPANT_METHOD, participant_pb2.SessionResponse.FromString)
        try:
            await call.write(participant_pb2.SessionRequest(hello=hello))
            answer = await call.read()
            if answer is grpc.aio.EOF or not answer.HasField("welcome"):
                return
            said = self._overheard()
            for message in [*said["reports"], *said["inquiries"]]:
                message.order = message.order or 1  # without one it would announce a branch, as Enlist does
            for report in said["reports"]:
                await call.write(participant_pb2.SessionRequest(reports=[report]))
            await call.write(participant_pb2.SessionRequest(reports_complete=True))
            for field in SAID[:-1]:
                for message in said[field]:
                    await call.write(participant_pb2.SessionRequest(**{field: [message]}))
            self.world.reach("a stranger said what others say")
            await self._hears_nothing(call)
        finally:
            call.cancel()

    async def _as_another(self) -> None:
        """Under another's name, and not that one: it is not welcomed, and what it says meanwhile is not heard."""
        known = [hello for name, hello in self._welcomed().items() if name != NAME]
        if not known:
            return
        hello = participant_pb2.Hello()
        hello.CopyFrom(self._random.choice(known))
        how = self._random.choice(("log", "process", "start", "asks"))
        if how == "log":
            hello.log_id = "6" * 32
        elif how == "process":
            hello.nonce = "0badcafe"
        elif how == "asks":
            hello.asks, hello.nonce, hello.incarnation = True, "", hello.incarnation + 1
        elif hello.incarnation > 1:
            hello.incarnation, hello.nonce = hello.incarnation - 1, "0badcafe"
        else:
            return
        said = self._overheard(hello.participant)
        call = self._dial(PARTICIPANT_METHOD, participant_pb2.SessionResponse.FromString)
        try:
            await call.write(participant_pb2.SessionRequest(hello=hello, reports_complete=how == "log"))
            for field in SAID:
                for message in said[field]:
                    await call.write(participant_pb2.SessionRequest(**{field: [message]}))
            self.world.reach("a stranger came under another's name")
            answer = await call.read()
            welcomed = answer is not grpc.aio.EOF and answer.HasField("welcome")
            if welcomed and how != "asks":
                self.world.unexpected.append(f"who may: welcomed as {hello.participant}, by another {how}")
            if welcomed:
                await self._hears_nothing(call)
        finally:
            call.cancel()

    def _welcomed(self) -> dict[str, participant_pb2.Hello]:
        """Of each participant the newest Hello after which more was said: it is bound."""
        found: dict[str, participant_pb2.Hello] = {}
        said: dict[str, participant_pb2.Hello] = {}
        for name, frame in self._frames(PARTICIPANT_METHOD, participant_pb2.SessionRequest):
            if frame.HasField("hello"):
                said[name] = frame.hello
            elif name in said and not said[name].asks:
                found[name] = said[name]
        return found

    def _overheard(self, of: str = "") -> dict[str, list[Any]]:
        """Something that somebody has said of his branches, or the contrary of it; by field, each for a frame of its own."""
        said: dict[str, list[Any]] = {field: [] for field in SAID}
        for name, frame in self._frames(PARTICIPANT_METHOD, participant_pb2.SessionRequest):
            for field in SAID if name != NAME and of in ("", name) else ():
                said[field] += getattr(frame, field)
        said = {field: self._random.sample(known[-5:], min(len(known), 2)) for field, known in said.items()}
        if self._random.random() < 0.5:
            for field, contrary in CONTRARY.items():
                for message in said[field]:
                    message.kind = contrary.get(message.kind, message.kind)
        return said

    async def _hears_nothing(self, call: Any) -> None:
        """It is given no work: it has a branch nowhere. (Whoever asks about a transaction is told what is true, or asked back.)"""
        while (frame := await call.read()) is not grpc.aio.EOF:
            if frame.prepares or frame.forces:
                self.world.unexpected.append(f"who may: a stranger was given {frame}")

    # ---- as a client

    async def _as_client(self) -> None:
        """In a session of its own, it ends transactions of other sessions."""
        others = list(self._history.attempts)[-5:]
        if not others:
            return
        name = self._random.choice(others)
        number = self._random.choice((int(name.rpartition(".")[2]), 1))
        call = self._dial(CLIENT_METHOD, client_pb2.ConnectResponse.FromString)
        try:
            hello = client_pb2.ClientHello(protocol=common_pb2.ProtocolRange(lowest=1, highest=1))
            await call.write(client_pb2.ConnectRequest(hello=hello))
            await call.read()
            frame = client_pb2.ConnectRequest()
            if self._random.random() < 0.5:
                frame.commits.add(number=number, transaction_id=name)
            else:
                frame.aborts.add(number=number, transaction_id=name)
            await call.write(frame)
            self.world.reach("a stranger ended another session's transaction")
            while (answer := await call.read()) is not grpc.aio.EOF:
                if answer.answers:
                    self.world.unexpected.append(f"who may: a stranger's session was answered about {name}: {answer.answers[0]}")
        finally:
            call.cancel()

    # ---- what it has overheard

    def _frames(self, method: str, kind: Any) -> list[tuple[str, Any]]:
        return [(name, kind.FromString(data)) for name, said, data in self.network.overheard if said == method]


def is_its_own_fault(text: str) -> bool:
    """Whether what was logged as a violation is what a stranger has done."""
    return NAME in text or "is not the transaction" in text
