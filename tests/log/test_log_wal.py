"""The judge of write-ahead logs: a torn end is cut, damage in the middle is damage."""

from __future__ import annotations

import itertools
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.log import wal

PAGE_BYTES = 512
FRAME_BYTES = wal.FRAME_HEADER_BYTES + PAGE_BYTES
OLD, NEW = (7, 1111), (8, 2222)

Transactions = list[list[int]]
"""The pages that each transaction writes."""


def summed(data: bytes, seed: tuple[int, int], order: str = "<") -> tuple[int, int]:
    """SQLite's checksum, written once more."""
    s0, s1 = seed
    for x0, x1 in struct.iter_unpack(f"{order}2I", data):
        s0 = (s0 + x0 + s1) % 2**32
        s1 = (s1 + x1 + s0) % 2**32
    return s0, s1


def write_ahead_log(transactions: Transactions, salts: tuple[int, int] = NEW, magic: int = 0x377F0682) -> bytearray:
    """A WAL as SQLite would write it."""
    order = ">" if magic & 1 else "<"
    head = struct.pack(">6I", magic, 3007000, PAGE_BYTES, 0, *salts)
    seed = summed(head, (0, 0), order)
    data = bytearray(head + struct.pack(">2I", *seed))
    content = itertools.count(salts[0])
    for pages in transactions:
        for page in pages:
            header = struct.pack(">2I", page, 9 if page == pages[-1] else 0)
            body = struct.pack(">I", next(content)) * (PAGE_BYTES // 4)
            seed = summed(body, summed(header, seed, order), order)
            data += header + struct.pack(">4I", *salts, *seed) + body
    return data


def frame(index: int) -> slice:
    return slice(wal.HEADER_BYTES + index * FRAME_BYTES, wal.HEADER_BYTES + (index + 1) * FRAME_BYTES)


@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 32])
def test_a_wal_without_frames_is_empty(data: bytes) -> None:
    assert wal.scan(data) == wal.WalScan(0, 0, 0, None)


@pytest.mark.parametrize("magic", [0x377F0682, 0x377F0683])
def test_a_sound_wal_of_either_byte_order_is_taken_whole(magic: int) -> None:
    data = write_ahead_log([[1, 2], [2], [2, 3]], magic=magic)
    assert wal.scan(bytes(data)) == wal.WalScan(5, 5, 0, None)


def test_a_transaction_without_commit_is_torn() -> None:
    data = write_ahead_log([[1, 2], [2, 3, 4]])
    del data[frame(4)]
    assert wal.scan(bytes(data)) == wal.WalScan(4, 2, 2, None)


def test_frames_of_an_earlier_use_do_not_count() -> None:
    old, new = write_ahead_log([[1], [1], [1], [1]], OLD), write_ahead_log([[1, 2]])
    assert wal.scan(bytes(new + old[frame(2)] + old[frame(3)])) == wal.WalScan(4, 2, 0, None)


def test_a_bad_header_is_damage() -> None:
    for position in range(wal.HEADER_BYTES):
        data = write_ahead_log([[1]])
        data[position] ^= 0x55
        problem = wal.scan(bytes(data)).problem
        assert problem is not None and problem[0] == "byte 0"


def test_the_place_of_damage_is_told() -> None:
    data = write_ahead_log([[1], [1], [1]])
    data[frame(1).stop - 1] ^= 1
    assert wal.scan(bytes(data)).problem == (
        f"byte {frame(1).start} (frame 2)",
        "a bad frame stands before transactions that had been synced",
    )


@given(st.integers(0, 5), st.data())
@settings(max_examples=300, deadline=None)
def test_any_torn_last_transaction_is_cut_without_complaint(synced: int, data: st.DataObject) -> None:
    """Its frames reach the disk in any order: each is new, or what stood there before, or was never written."""
    pages = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True))
    committed = [[2, 3]] * synced
    torn = write_ahead_log([*committed, pages])
    before = write_ahead_log([[2], [3]] * 7, OLD)
    whole = True
    for index in range(2 * synced, 2 * synced + len(pages)):
        fate = data.draw(st.sampled_from(["new", "old", "zero", "cut"]))
        if fate == "cut":
            del torn[frame(index).start :]
        elif fate != "new" and len(torn) >= frame(index).stop:
            torn[frame(index)] = before[frame(index)] if fate == "old" else bytes(FRAME_BYTES)
        whole = whole and fate == "new"
    scanned = wal.scan(bytes(torn))
    assert scanned.problem is None
    assert scanned.committed_frames == 2 * synced + (len(pages) if whole else 0)


@given(st.lists(st.lists(st.integers(1, 6), max_size=2, unique=True), min_size=1, max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_byte_before_the_last_transaction_is_damage(others: Transactions, data: st.DataObject) -> None:
    """Each batch changes the last page of the table, so transactions that follow each other share a page."""
    transactions = [sorted({*pages, 7}) for pages in others]
    sound = write_ahead_log([*transactions, [7]])
    position = data.draw(st.integers(wal.HEADER_BYTES, len(sound) - FRAME_BYTES - 1))
    sound[position] ^= data.draw(st.integers(1, 255))
    assert wal.scan(bytes(sound)).problem is not None


@pytest.mark.parametrize("cut", [0, 1, 24, 535])
def test_sqlite_agrees_about_what_is_committed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    for _ in range(5):
        connection.execute("INSERT INTO t (b) VALUES (zeroblob(700))")
    data = (tmp_path / "x.db-wal").read_bytes()
    connection.close()
    data = data[: len(data) - cut]
    clone = tmp_path / "clone.db"
    clone.write_bytes(path.read_bytes())
    (tmp_path / "clone.db-wal").write_bytes(data)
    connection = sqlite3.connect(clone, isolation_level=None)
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()
    scanned = wal.scan(data)
    assert (scanned.committed_frames, scanned.problem) == (frames, None)
