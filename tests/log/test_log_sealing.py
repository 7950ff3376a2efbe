"""Payload in records is sealed where it stands, and everything else is in clear."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from log_samples import PostgresStore
from mariadb_samples import MariadbStore

from participant_sdk.testing.mariadb import MariadbServer
from participant_sdk.testing.postgres import PostgresServer
from troth.log import offline, sealing
from troth.log.contract import Log
from troth.log.memory import Disk, MemoryLog
from troth.log.sealing import RecordCodec
from troth.log.sqlite import SqliteLog
from troth.payload_keys import Ring, draw
from troth.ready import Append
from troth.v1 import common_pb2, record_pb2

PLANTED = "planted-payload-8f14e45f"
NAME = "c1.1.0123abcd.1.1"
CLAIM = record_pb2.KeyClaim(key=PLANTED, body_hash=PLANTED.encode(), hash_version=1, owner="ada", result=PLANTED.encode())
RESULTS = common_pb2.Results(values=[common_pb2.Value(text=PLANTED)])
WORK = record_pb2.BranchWork(
    keys=["account/1"], rows=[b"row"], undo=[b"undo"], results=RESULTS,
    operations=[common_pb2.Operation(name="keep", arguments=PLANTED.encode())],
)  # fmt: skip
COORDINATORS: list[Message] = [
    record_pb2.CoordinatorRecord(at_ms=7, decided=record_pb2.Decided(transaction_id=NAME, participants=["a"], claim=CLAIM)),
    record_pb2.CoordinatorRecord(ended=record_pb2.Ended(transaction_id=NAME, claim=CLAIM, who="ada", why=PLANTED)),
    record_pb2.CoordinatorRecord(key_opened=record_pb2.KeyOpened(transaction_id=NAME, claim=CLAIM)),
    record_pb2.CoordinatorRecord(participant_bound=record_pb2.ParticipantBound(participant="a", who="ada", why=PLANTED)),
    record_pb2.CoordinatorRecord(heuristic=record_pb2.Heuristic(transaction_id=NAME, why=PLANTED)),
    record_pb2.CoordinatorRecord(forgotten=record_pb2.Forgotten(transaction_id=NAME, why=PLANTED, claim=CLAIM)),
    record_pb2.CoordinatorRecord(loss=record_pb2.Loss(participant="a", why=PLANTED)),
    record_pb2.CoordinatorRecord(review=record_pb2.Review(review="c1-1", kind="X", request=PLANTED.encode(), would=PLANTED)),
]
PARTICIPANTS: list[Message] = [
    record_pb2.ParticipantRecord(branch_active=record_pb2.BranchActive(transaction_id=NAME, work=WORK)),
    record_pb2.ParticipantRecord(branch_prepared=record_pb2.BranchPrepared(transaction_id=NAME, work=WORK)),
    record_pb2.ParticipantRecord(branch_finished=record_pb2.BranchFinished(transaction_id=NAME, results=RESULTS, why=PLANTED)),
    record_pb2.ParticipantRecord(branch_parked=record_pb2.BranchParked(transaction_id=NAME, why=PLANTED)),
    record_pb2.ParticipantRecord(force_ordered=record_pb2.ForceOrdered(transaction_id=NAME, why=PLANTED)),
    record_pb2.ParticipantRecord(schema_changed=record_pb2.SchemaChanged(statement=PLANTED)),
]
ALL = [("coordinator", one) for one in COORDINATORS] + [("participant", one) for one in PARTICIPANTS]
IN_CLEAR = re.findall(
    r"\S+",
    """
    BranchActive.call_id BranchActive.transaction_id BranchFinished.resource_branch BranchFinished.transaction_id
    BranchFinished.who BranchParked.transaction_id BranchPrepared.peers BranchPrepared.transaction_id BranchWork.keys
    BranchWork.resource_branch BranchWork.rows BranchWork.shared_keys BranchWork.undo CoordinatorRecord.sealed_with
    Decided.owner Decided.participants Decided.traceparent Decided.transaction_id DroppedBranches.participant
    DroppedSession.nonce Ended.owner
    Ended.participant Ended.transaction_id Ended.who EpochSeen.coordinator EpochSeen.log_id EpochSeen.nonce
    EpochStarted.coordinator EpochStarted.nonce ForceOrdered.transaction_id ForceOrdered.who Forgotten.owner
    Forgotten.participants Forgotten.transaction_id Forgotten.who ForgottenBelow.coordinator Heuristic.participant
    Heuristic.transaction_id Heuristic.who IncarnationStarted.earlier IncarnationStarted.nonce
    IncarnationStarted.participant KeyClaim.owner KeyClosed.transaction_id KeyOpened.participant KeyOpened.transaction_id
    Loss.nonce Loss.participant Loss.who Operation.caller Operation.name ParticipantBound.awaited_log_id
    ParticipantBound.log_id ParticipantBound.nonce ParticipantBound.participant ParticipantBound.who
    ParticipantHeard.participant ParticipantRecord.sealed_with Review.asker Review.kind Review.review
""",
)
"""What recovery needs, and who did what: no payload."""


@pytest.fixture
def ring() -> Ring:
    return Ring((draw(),))


def sealed_by(codec: RecordCodec, record: Message) -> bytes:
    assert codec.seal is not None
    return codec.seal(record)


def texts(descriptor: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """Every field below a message that is text or bytes."""
    if descriptor.name in seen or descriptor.name == "Results":
        return
    seen.add(descriptor.name)
    for field in descriptor.fields:
        if field.message_type is not None:
            yield from texts(field.message_type, seen)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            yield field


def test_every_text_of_a_record_is_either_sealed_or_known_to_be_no_payload() -> None:
    seen: set[str] = set()
    fields = [
        f"{field.containing_type.name}.{field.name}"
        for kind in (record_pb2.CoordinatorRecord, record_pb2.ParticipantRecord)
        for field in texts(kind.DESCRIPTOR, seen)
    ]
    sealed = {
        f"{type(message).DESCRIPTOR.name}.{field}" for _, record in ALL for message, field in sealing._places(record)
    } - {"BranchWork.results", "BranchFinished.results"}  # fmt: skip
    assert sorted(fields) == sorted({*IN_CLEAR, *sealed})
    assert not sealed & set(IN_CLEAR)


@pytest.mark.parametrize(("role", "record"), ALL, ids=lambda one: one if isinstance(one, str) else one.WhichOneof("kind"))
def test_payload_is_sealed_and_comes_back(role: str, record: Any, ring: Ring) -> None:
    before = record.SerializeToString()
    body = sealed_by(RecordCodec(role, ring), record)
    assert PLANTED.encode() not in body
    assert base64.b64encode(PLANTED.encode())[:-4] not in body
    assert record.SerializeToString() == before, "the core has it still"
    again = RecordCodec(role, ring)
    assert [type(record).FromString(one) for one in again.opened([body])] == [record]
    assert (again.needed, again.missing) == ({ring.newest.id: 1}, [])
    stripped = type(record).FromString(body)
    assert getattr(stripped, record.WhichOneof("kind")).DESCRIPTOR is not None
    assert stripped.sealed_with == ring.newest.id


@pytest.mark.parametrize(("role", "record"), ALL, ids=lambda one: one if isinstance(one, str) else one.WhichOneof("kind"))
def test_without_the_key_it_stays_sealed_is_copied_so_and_opens_when_the_key_is_back(role: str, record: Any, ring: Ring) -> None:
    body = sealed_by(RecordCodec(role, ring), record)
    for poor in (None, Ring((draw(),))):
        codec = RecordCodec(role, poor)
        (left,) = codec.opened([body])
        assert codec.missing == [ring.newest.id]
        copied = sealed_by(codec, type(record).FromString(left))
        assert PLANTED.encode() not in copied
        (opened,) = RecordCodec(role, ring).opened([copied])
        assert type(record).FromString(opened) == record


def test_without_keys_nothing_is_changed() -> None:
    codec = RecordCodec("coordinator")
    bodies = [record.SerializeToString() for record in COORDINATORS]
    assert codec.opened(bodies) == bodies
    assert (codec.seal, codec.missing, codec.needed) == (None, [], {})


def test_what_has_no_payload_is_not_marked(ring: Ring) -> None:
    started = record_pb2.CoordinatorRecord(epoch_started=record_pb2.EpochStarted(coordinator="c1", epoch=1))
    nothing = record_pb2.ParticipantRecord(heard=3)
    kept_out = record_pb2.CoordinatorRecord(decided=record_pb2.Decided(transaction_id=NAME))
    for role, record in (("coordinator", started), ("participant", nothing), ("coordinator", kept_out)):
        assert sealed_by(RecordCodec(role, ring), record) == record.SerializeToString()


def test_a_rotated_ring_opens_what_the_old_key_sealed_and_seals_with_the_new_one(ring: Ring) -> None:
    old = sealed_by(RecordCodec("coordinator", ring), COORDINATORS[0])
    rotated = ring.rotated()
    codec = RecordCodec("coordinator", rotated)
    assert codec.opened([old]) == [COORDINATORS[0].SerializeToString()]
    new = sealed_by(codec, COORDINATORS[0])
    assert record_pb2.CoordinatorRecord.FromString(new).sealed_with == rotated.newest.id
    assert RecordCodec("coordinator", Ring((rotated.newest,))).opened([new]) == [COORDINATORS[0].SerializeToString()]


def test_another_secret_of_the_same_name_opens_nothing_and_loses_nothing(ring: Ring) -> None:
    body = sealed_by(RecordCodec("coordinator", ring), COORDINATORS[0])
    codec = RecordCodec("coordinator", Ring((replace(draw(), id=ring.newest.id),)))
    (left,) = codec.opened([body])
    assert (codec.missing, codec.unopened, codec.unreadable) == ([], [ring.newest.id], True)
    copied = sealed_by(codec, record_pb2.CoordinatorRecord.FromString(left))
    assert RecordCodec("coordinator", ring).opened([copied]) == [COORDINATORS[0].SerializeToString()]


def test_a_value_that_was_changed_cut_or_moved_to_another_field_does_not_open(ring: Ring) -> None:
    record = record_pb2.CoordinatorRecord.FromString(sealed_by(RecordCodec("coordinator", ring), COORDINATORS[0]))
    value = record.decided.claim.body_hash
    key = base64.b64decode(record.decided.claim.key.removeprefix("sealed:"))
    after_id = len(sealing.MAGIC) + 1 + len(ring.newest.id)
    cut = [value[:end] for end in range(after_id, len(value))]
    changed = [value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :] for at in range(after_id, len(value))]
    for wrong in (key, *cut, *changed):
        record.decided.claim.body_hash = wrong
        codec = RecordCodec("coordinator", ring)
        (opened,) = codec.opened([record.SerializeToString()])
        assert (codec.missing, codec.unopened) == ([], [ring.newest.id])
        assert record_pb2.CoordinatorRecord.FromString(opened).decided.claim.key == PLANTED, "the others open"


LOOKING = ("sealed:", "sealed:?", "sealed:AAAA", "sealed:" + base64.b64encode(sealing.MAGIC + b"\x02k1").decode())


@pytest.mark.parametrize("text", LOOKING)
def test_a_text_that_only_looks_sealed_is_a_text_like_any_other(text: str, ring: Ring) -> None:
    record = record_pb2.CoordinatorRecord(loss=record_pb2.Loss(why=text))
    body = sealed_by(RecordCodec("coordinator", ring), record)
    codec = RecordCodec("coordinator", ring)
    assert (codec.opened([body]), codec.missing) == ([record.SerializeToString()], [])
    plain = RecordCodec("coordinator")
    assert (plain.opened([record.SerializeToString()]), plain.missing) == ([record.SerializeToString()], [])


def test_a_value_in_clear_beside_sealed_ones_is_left_alone(ring: Ring) -> None:
    """A process without any key adds to what it could not open."""
    record = record_pb2.CoordinatorRecord.FromString(sealed_by(RecordCodec("coordinator", ring), COORDINATORS[1]))
    record.ended.why = "in clear"
    shown = record_pb2.CoordinatorRecord.FromString(record.SerializeToString())
    sealing.show_sealed(shown)
    assert (shown.ended.why, shown.ended.claim.key) == ("in clear", f"(sealed with {ring.newest.id})")
    codec = RecordCodec("coordinator")
    (left,) = codec.opened([record.SerializeToString()])
    copied = sealed_by(codec, record_pb2.CoordinatorRecord.FromString(left))
    opened = record_pb2.CoordinatorRecord.FromString(RecordCodec("coordinator", ring).opened([copied])[0])
    assert (opened.ended.why, opened.ended.claim.key) == ("in clear", PLANTED)


def test_what_a_log_needs_and_what_is_not_there_is_told(ring: Ring, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = sealed_by(RecordCodec("coordinator", ring), COORDINATORS[0])
    for keys, told in (
        (ring, []), (None, ["PAYLOAD_KEY_MISSING"]), (Ring((draw(),)), ["PAYLOAD_KEY_MISSING"]),
        (Ring((replace(draw(), id=ring.newest.id),)), ["PAYLOAD_UNREADABLE"]),
    ):  # fmt: skip
        codec = RecordCodec("coordinator", keys)
        codec.opened([body, body])
        caplog.clear()
        codec.tell()
        assert f"{{'{ring.newest.id}': 2}}" in caplog.text
        assert re.findall("reason=([A-Z_]+)", caplog.text) == told
        assert PLANTED not in caplog.text
    caplog.clear()
    RecordCodec("coordinator", ring).tell()
    assert not caplog.messages


class Changing:
    """A ring that is replaced while a log is written."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def __call__(self) -> Ring:
        return self.ring


def test_a_rotation_while_it_runs_seals_with_the_new_key_from_then_on(ring: Ring) -> None:
    keyring = Changing(ring)
    codec = RecordCodec("coordinator", keyring)
    before = sealed_by(codec, COORDINATORS[0])
    keyring.ring = ring.rotated()
    after = sealed_by(codec, COORDINATORS[0])
    sealed_with = [record_pb2.CoordinatorRecord.FromString(body).sealed_with for body in (before, after)]
    assert sealed_with == [ring.newest.id, keyring.ring.newest.id]
    again = RecordCodec("coordinator", keyring.ring)
    assert again.opened([before, after]) == [COORDINATORS[0].SerializeToString()] * 2
    old = RecordCodec("coordinator", ring)
    assert old.opened([before, after])[0] == COORDINATORS[0].SerializeToString()
    assert old.missing == [keyring.ring.newest.id]


TEXTS = st.text(max_size=50)
CLAIMED = st.builds(
    lambda kind, key, body, why: record_pb2.CoordinatorRecord(**{kind: {"claim": {"key": key, "body_hash": body}, **why}}),
    st.sampled_from(["ended", "forgotten"]), TEXTS, st.binary(max_size=40), TEXTS.map(lambda why: {"why": why}),
)  # fmt: skip


@given(CLAIMED | st.builds(lambda why: record_pb2.CoordinatorRecord(loss=record_pb2.Loss(participant="a", why=why)), TEXTS))
def test_whatever_is_sealed_comes_back(record: Any) -> None:
    ring = Ring((draw(),))
    body = sealed_by(RecordCodec("coordinator", ring), record)
    assert RecordCodec("coordinator", ring).opened([body]) == [record.SerializeToString()]
    poor = RecordCodec("coordinator")
    (left,) = poor.opened([body])
    copied = left if poor.seal is None else poor.seal(record_pb2.CoordinatorRecord.FromString(left))
    assert RecordCodec("coordinator", ring).opened([copied]) == [record.SerializeToString()]


def test_data_keys_are_replaced_in_time_and_only_some_are_remembered(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "DATA_KEY_VALUES_MAX", 2)
    monkeypatch.setattr(sealing, "DATA_KEYS_KEPT_MAX", 2)
    record = COORDINATORS[6]
    codec = RecordCodec("coordinator", ring)
    bodies = [sealed_by(codec, record) for _ in range(7)]
    values = [base64.b64decode(record_pb2.CoordinatorRecord.FromString(body).loss.why.removeprefix("sealed:")) for body in bodies]
    end = len(sealing.MAGIC) + 1 + len(ring.newest.id) + 60
    assert len({value[:end] for value in values}) == 4
    assert len({value[end : end + sealing.NONCE_BYTES] for value in values}) == 7, "no nonce comes twice"
    assert codec.opened(bodies) == [record.SerializeToString()] * 7


def test_what_is_no_record_is_left_to_whoever_reads_it(ring: Ring) -> None:
    assert RecordCodec("coordinator", ring).opened([b"\x92\x01\xff", b""]) == [b"\x92\x01\xff", b""]


@pytest.mark.parametrize("kind", ["file", "memory"])
async def test_a_log_writes_what_seals_gives(kind: str, ring: Ring, tmp_path: Path) -> None:
    disk = Disk()

    def log() -> Log:
        if kind == "memory":
            return MemoryLog(disk, role="coordinator", name="c1")
        return SqliteLog(tmp_path / "log.db", role="coordinator", name="c1")

    codec, first = RecordCodec("coordinator", ring), log()
    await first.open()
    first.seal = codec.seal
    await first.write([Append(one) for one in COORDINATORS], sync=True)
    await first.close()
    second = log()
    _, records = await second.open()
    await second.close()
    assert not [one for one in records if PLANTED.encode() in one.body]
    assert codec.opened([one.body for one in records]) == [one.SerializeToString() for one in COORDINATORS]


@pytest.mark.parametrize("database", ["PostgreSQL", "MariaDB"])
async def test_a_log_in_a_database_has_nothing_in_clear_either(
    database: str, ring: Ring, postgres: PostgresServer, mariadb: MariadbServer
) -> None:
    store = PostgresStore(postgres) if database == "PostgreSQL" else MariadbStore(mariadb)
    await store.create()
    codec, first = RecordCodec("coordinator", ring), store.log()
    await first.open()
    first.seal = codec.seal
    await first.write([Append(one) for one in COORDINATORS], sync=True)
    await first.close()
    second = store.log()
    _, records = await second.open()
    await second.close()
    assert not [one for one in records if PLANTED.encode() in one.body]
    assert codec.opened([one.body for one in records]) == [one.SerializeToString() for one in COORDINATORS]


async def test_a_log_is_verified_and_dumped_without_the_key(ring: Ring, tmp_path: Path) -> None:
    for role, records in (("coordinator", COORDINATORS), ("participant", PARTICIPANTS)):
        path = tmp_path / f"{role}.db"
        log = SqliteLog(path, role=role, name="c1")
        await log.open()
        log.seal = RecordCodec(role, ring).seal
        await log.write([Append(one) for one in records], sync=True)
        log.seal = None
        await log.write([Append(records[0])], sync=True)
        await log.close()
        verified, dumped = offline.verify(path), offline.dump(path)
        assert (verified.problems, verified.keys) == ((), (ring.newest.id,))
        *sealed, clear = dumped.records
        assert {one.keys for one in sealed} == {frozenset({ring.newest.id})}
        assert (clear.keys, clear.message) == (frozenset(), records[0])
        for record in sealed:
            shown = str(record.message)
            assert f"(sealed with {ring.newest.id})" in shown
            assert PLANTED not in shown
            assert NAME in shown or record.message.WhichOneof("kind") in ("participant_bound", "loss", "schema_changed", "review")
