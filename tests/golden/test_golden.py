"""The last landed version beside this one: its frames and its logs are served, and what this one says and writes it understands.

Neighbouring versions run beside each other while nodes, participants and clients are replaced one by one, and are put back one by
one. The old side is a recording (`golden_session.py` says how one is made), since a clone need not have any history: an old
coordinator is the frames that one has said, an old reader is the descriptors that one was built of.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import pytest
from golden_session import STREAMS, WAIT_SECONDS, Said, decoded, make_daemon, make_participant, one_shots
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from participant_sdk import Participant
from participant_sdk.client import Client, call
from troth import features
from troth.log import offline
from troth.v1 import admin_pb2, client_pb2, common_pb2, participant_pb2, record_pb2

RELEASED = Path(__file__).parent / "c8bca16"
"""What the last landed version has said and written. The next one gets a directory of its own, and this one stays for one more."""
ONE_SHOT = 4
"""The stream of the client that runs transactions of one shot."""


# ---- the old side


def pool() -> Any:
    """The descriptors of the last landed version."""
    found = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString((RELEASED / "protos.binpb").read_bytes()).file:
        found.Add(file)  # type: ignore[no-untyped-call]  # it has no types
    return found


OLD = pool()


def old_type(name: str) -> Any:
    """A message type as that version has it."""
    return message_factory.GetMessageClass(OLD.FindMessageTypeByName(f"troth.v1.{name}"))


def recorded(directory: Path = RELEASED) -> list[Said]:
    """All frames, in order."""
    return [Said(**json.loads(line)) for line in (directory / "frames.jsonl").read_text(encoding="utf-8").splitlines()]


def unknown(message: Message, where: str = "") -> Iterator[str]:
    """Fields that the descriptors of a message do not know, at every depth."""
    where = where or message.DESCRIPTOR.name
    for field in UnknownFieldSet(message):  # type: ignore[no-untyped-call,attr-defined]  # it has no types
        yield f"{where}.{field.field_number}"
    for descriptor, value in message.ListFields():
        inner = descriptor.message_type
        if inner is None or inner.GetOptions().map_entry:
            continue
        for one in value if descriptor.is_repeated else (value,):
            yield from unknown(one, f"{where}.{descriptor.name}")


def items(message: Any) -> set[tuple[Any, ...]]:
    """What a frame says of substance, so that two runs can be compared: not how it is batched, repeated and timed."""
    found: set[tuple[Any, ...]] = set()
    for descriptor, value in message.ListFields():
        if descriptor.name in ("hello", "welcome", "goodbye"):
            found.add((descriptor.name,))
        elif descriptor.is_repeated and descriptor.message_type is not None:
            found |= {(descriptor.name, *_substance(one)) for one in value}
    return found


def _substance(item: Any) -> Iterator[Any]:
    for name in ("transaction_id", "number", "kind", "outcome"):
        yield getattr(item, name, None)
    yield item.cause.reason if "cause" in item.DESCRIPTOR.fields_by_name else None


def renewed(message: Any) -> Any:
    """The same with the time of its first attempt now: what was recorded long ago would be refused as too old."""
    for descriptor, value in message.ListFields():
        if descriptor.name == "first_attempt_ms":
            setattr(message, descriptor.name, time.time_ns() // 1_000_000)
        elif descriptor.message_type is not None and descriptor.is_repeated:
            for one in value:
                renewed(one)
    return message


class Heard:
    """What somebody has said so far."""

    def __init__(self) -> None:
        self._items: set[tuple[Any, ...]] = set()
        self._more = asyncio.Condition()

    async def add(self, message: Any) -> None:
        """One more frame."""
        async with self._more:
            self._items |= items(message)
            self._more.notify_all()

    async def has(self, wanted: set[tuple[Any, ...]]) -> None:
        """Wait until it has said all of this."""
        async with self._more:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._more.wait_for(lambda: wanted <= self._items)
            except TimeoutError:
                raise AssertionError(f"not said: {sorted(map(str, wanted - self._items))}") from None


IN_QUESTIONS = {"SessionRequest.inquiries.4"}
"""Whom a branch holds up, told to people when it asks: an older coordinator passes it over. In these tests hardly anybody asks."""


# ---- old peers, new coordinator


class OldPeers:
    """All participants and clients of the recording, against a coordinator of this version."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._calls: dict[int, Any] = {}
        self._heard: dict[int, Heard] = {}
        self._readers: list[asyncio.Task[None]] = []
        self.frames: list[tuple[str, bytes]] = []
        """What the coordinator said, each with the name of its message."""

    async def say(self, one: Said) -> None:
        """Say what was recorded."""
        if one.stream not in self._calls:
            self._calls[one.stream] = self._channel.stream_stream(one.method)()
            self._heard[one.stream] = Heard()
            self._readers.append(asyncio.create_task(self._read(one)))
        name = STREAMS[one.method][0].DESCRIPTOR.name
        await self._calls[one.stream].write(renewed(old_type(name).FromString(bytes.fromhex(one.frame))).SerializeToString())

    async def _read(self, one: Said) -> None:
        name = STREAMS[one.method][1].DESCRIPTOR.name
        while (frame := await self._calls[one.stream].read()) is not grpc.aio.EOF:
            self.frames.append((name, frame))
            await self._heard[one.stream].add(old_type(name).FromString(frame))

    async def hear(self, one: Said) -> None:
        """Wait for what was recorded."""
        await self._heard[one.stream].has(items(decoded(one)))

    def close(self) -> None:
        """End all streams."""
        for reader in self._readers:
            reader.cancel()
        for stream in self._calls.values():
            stream.cancel()


async def test_old_participants_and_clients_are_served(tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path)
    await daemon.start()
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        peers = OldPeers(channel)
        for one in recorded():
            await (peers.say(one) if one.up else peers.hear(one))
        peers.close()
    await daemon.stop()
    assert [found for name, frame in peers.frames for found in unknown(old_type(name).FromString(frame))] == []


# ---- an old coordinator, new peers


class OldCoordinator(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types for it
    """One stream of the recording: it says what was said, once what was said before it has come."""

    def __init__(self, said: list[Said]) -> None:
        self._said = said
        self.frames: list[bytes] = []
        """What came."""
        self.over = asyncio.Event()
        self.failure: AssertionError | None = None
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def service(self, details: Any) -> Any:
        """The one method."""
        return grpc.stream_stream_rpc_method_handler(self._stream) if details.method == self._said[0].method else None

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        heard = Heard()
        reading = asyncio.create_task(self._read(requests, heard))
        try:
            for one in self._said:
                if one.up:
                    await heard.has(items(decoded(one)))
                else:
                    await context.write(bytes.fromhex(one.frame))
        except AssertionError as error:
            self.failure = error
        self.over.set()
        await reading

    async def _read(self, requests: AsyncIterator[bytes], heard: Heard) -> None:
        async for frame in requests:
            self.frames.append(frame)
            await heard.add(old_type(STREAMS[self._said[0].method][0].DESCRIPTOR.name).FromString(frame))

    async def finished(self) -> None:
        """Wait until all was said, and see that everything that came is known to it."""
        async with asyncio.timeout(2 * WAIT_SECONDS):
            await self.over.wait()
        if self.failure is not None:
            raise self.failure
        request = old_type(STREAMS[self._said[0].method][0].DESCRIPTOR.name)
        assert {found for frame in self.frames for found in unknown(request.FromString(frame))} <= IN_QUESTIONS


async def total(bank: Participant) -> int:
    """What is committed there."""
    return int(await bank.read(lambda db: db.one("SELECT coalesce(sum(amount), 0) FROM entry")[0]))


async def test_a_participant_works_with_an_old_coordinator(tmp_path: Path) -> None:
    said = [one for one in recorded() if one.who == "stock"]
    async with OldCoordinator(said) as old, make_participant("stock", tmp_path, old.address) as bank:
        await old.finished()
        assert await total(bank) == 1 + 3, "what was refused is not there"


async def test_a_client_works_with_an_old_coordinator() -> None:
    async with OldCoordinator([one for one in recorded() if one.stream == ONE_SHOT]) as old, Client(old.address) as client:
        await one_shots(client)
        await old.finished()


# ---- logs

PASSED_OVER = {"CoordinatorRecord.horizon.9"}
"""Whether a horizon names whose commits were dropped. One of an older version does not, and stands for those of anybody."""


@pytest.mark.parametrize("version", ["e3ba1ba", RELEASED.name])
async def test_the_logs_of_the_old_version_go_on(tmp_path: Path, version: str) -> None:
    """A decision that had not arrived when everybody was upgraded at once arrives. Logs load for ever, also those of a version that
    this one does not work beside."""
    shutil.copytree(RELEASED.with_name(version) / "logs", tmp_path, dirs_exist_ok=True)
    daemon = make_daemon(tmp_path, nonce="fedcba9876543210")
    await daemon.start()
    async with make_participant("orders", tmp_path, daemon.address) as orders, make_participant(
        "stock", tmp_path, daemon.address
    ) as stock:  # fmt: skip
        async with asyncio.timeout(WAIT_SECONDS):
            while await total(stock) != 1 + 3 + 100:  # noqa: ASYNC110 - it is done by the participant
                await asyncio.sleep(0.01)
        assert await total(orders) == 1 + 3 + 10 + 100
        async with Client(daemon.address) as client:
            done = await client.run(call("orders", "add", amount=5), call("stock", "add", amount=5), wait="complete")
        assert done.results == {"orders": [5], "stock": [5]} and await total(stock) == 109
    await daemon.stop()


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same session between peers of this version, recorded in the same way."""
    directory = tmp_path_factory.mktemp("today")
    script = Path(__file__).with_name("golden_session.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    subprocess.run([sys.executable, str(script), str(directory)], check=True, env=environment, timeout=10 * WAIT_SECONDS)
    return directory


def test_the_old_version_knows_what_this_one_says(today: Path) -> None:
    said = recorded(today)
    told = {found for one in said for found in unknown(old_type(decoded(one).DESCRIPTOR.name).FromString(bytes.fromhex(one.frame)))}
    assert len(said) > 40 and told <= IN_QUESTIONS


@pytest.mark.parametrize(
    ("file", "kind"),
    [("c1/coordinator.db", "CoordinatorRecord"), ("orders.db", "ParticipantRecord"), ("stock.db", "ParticipantRecord")],
)
def test_the_old_version_reads_the_logs_that_this_one_writes(today: Path, file: str, kind: str) -> None:
    records = offline.dump(today / "logs" / file).records
    read = [old_type(kind).FromString(one.message.SerializeToString()) for one in records]
    assert read and all(one.WhichOneof("kind") for one in read), "it would refuse the log as too new"
    assert {found for one in read for found in unknown(one)} <= PASSED_OVER


def test_the_old_version_passes_a_result_on_with_its_key() -> None:
    """It copies the claim from record to record, and its cleaner writes it again: what it does not know of it stays."""
    claim = record_pb2.KeyClaim(key="k", body_hash=b"h", result=b"what it came to")
    decided = record_pb2.CoordinatorRecord(decided=record_pb2.Decided(transaction_id="c1.1.0a0b0c0d.1.1", claim=claim))
    read = old_type("CoordinatorRecord").FromString(decided.SerializeToString())
    assert list(unknown(read)) == ["CoordinatorRecord.decided.claim.5"]
    cleaned = old_type("CoordinatorRecord")(ended=old_type("Ended")(claim=read.decided.claim))
    copied = old_type("Decided")()
    copied.claim.CopyFrom(read.decided.claim)
    assert record_pb2.CoordinatorRecord.FromString(cleaned.SerializeToString()).ended.claim == claim
    assert record_pb2.Decided.FromString(copied.SerializeToString()).claim == claim


# ---- what is new is a feature

TOLD_TO_PEOPLE = {"SessionRequest.invariants"}
"""Messages for which nobody waits, and which only people read: an older side passes them over, and its people are told less."""

SERVICES = (
    client_pb2.DESCRIPTOR.services_by_name["TransactionService"], admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)  # fmt: skip
FRAMES = (
    participant_pb2.SessionRequest, participant_pb2.SessionResponse, client_pb2.ConnectRequest, client_pb2.ConnectResponse,
    record_pb2.CoordinatorRecord, record_pb2.ParticipantRecord,
)  # fmt: skip


def test_what_this_version_adds_to_frames_and_records_is_of_a_feature() -> None:
    """So is what it adds to the request of a call that the old version takes: it would pass it over, and do something else. Fields
    further down, and of answers, may be added anywhere."""
    calls = {method.name: method.input_type for service in SERVICES for method in service.methods if not method.client_streaming}
    taken = {one.name for service in SERVICES for one in OLD.FindServiceByName(service.full_name).methods}
    assert set(calls) - taken == {"ListParticipantDetails", "ReloadConfig"}, "who calls these is told that there is no such thing"
    kinds = [kind.DESCRIPTOR for kind in FRAMES] + [kind for name, kind in calls.items() if name in taken]
    new = {
        f"{kind.name}.{name}"
        for kind in kinds
        for name in set(kind.fields_by_name) - set(old_type(kind.name).DESCRIPTOR.fields_by_name)
    }
    assert new == TOLD_TO_PEOPLE | {name for feature in features.FEATURES for name in feature.adds}


def test_no_enum_has_another_value() -> None:
    """An older version gets it as a number that it does not know. A reason is told as a text, and one that is not known as none."""
    enums = {name: one for file in (common_pb2, participant_pb2, client_pb2, record_pb2, admin_pb2)
             for name, one in file.DESCRIPTOR.enum_types_by_name.items()}  # fmt: skip
    old = {name: known.values_by_name for name in enums if (known := old_enum(name)) is not None}
    assert {"Outcome", "VoteKind", "DecisionKind", "BranchState", "AcknowledgementKind"} <= set(old)
    more = {f"{name}.{value}" for name, values in old.items() for value in set(enums[name].values_by_name) - set(values)}
    assert more <= {name for feature in features.FEATURES for name in feature.adds}


def old_enum(name: str) -> Any:
    """An enum as that version has it; `None` for one of this version."""
    try:
        return OLD.FindEnumTypeByName(f"troth.v1.{name}")
    except KeyError:
        return None


def test_what_the_old_version_does_not_know_is_found() -> None:
    """At any depth: or the tests above would not see it."""
    new = participant_pb2.SessionRequest(callers=[participant_pb2.CallerQuestion(transaction_id="c1.1.0a0b0c0d.1.1")])
    assert list(unknown(old_type("SessionRequest").FromString(new.SerializeToString()))) == ["SessionRequest.10"]
    question = participant_pb2.Inquiry(transaction_id="c1.1.0a0b0c0d.1.1", order=3, state=participant_pb2.BRANCH_STATE_PREPARED)
    asked = participant_pb2.Inquiry(blocks=common_pb2.Blocks(lock_keys=1))
    asked.MergeFrom(question)
    read = old_type("SessionRequest").FromString(participant_pb2.SessionRequest(inquiries=[asked]).SerializeToString())
    assert set(unknown(read)) == IN_QUESTIONS
    read.DiscardUnknownFields()
    assert read.inquiries[0].SerializeToString() == question.SerializeToString(), "it is the same question without it"
    context = common_pb2.TransactionContext(proof=b"p")
    assert list(unknown(old_type("TransactionContext").FromString(context.SerializeToString()))) == ["TransactionContext.6"]
    review = record_pb2.CoordinatorRecord(review=record_pb2.Review(review="r"))
    assert old_type("CoordinatorRecord").FromString(review.SerializeToString()).WhichOneof("kind") is None
