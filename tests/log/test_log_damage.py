"""Every byte flipped and every length cut, on small logs: what was synced is there, or the log is refused.

One kind of loss is allowed, because no reader can tell it from a torn end: the last transaction of the write-ahead log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from log_samples import FileStore, batch, copy_files, numbers

from troth.errors import LogDamaged, LogError
from troth.log import files, schema
from troth.log.sqlite import LogConnection, SqliteLog

IDENTITY = schema.LogIdentity("coordinator", "c1", "0" * 32, 1)
BATCHES = [(1, 2), (3,), (4, 5, 6), (7,)]
ALL = [1, 2, 3, 4, 5, 6, 7]
MASKS = (0x01, 0xFF)


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: thousands of files are opened."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    directory = memory / f"troth-{os.getpid()}-{tmp_path.name}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
async def live(fast: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a process that was killed leaves behind: a small file, and a write-ahead log of several batches."""
    monkeypatch.setattr(files, "PAGE_BYTES", 512)
    monkeypatch.setattr(files, "sync", lambda path: None)
    store = FileStore(fast)
    log = store.log()
    await log.open()
    for values in BATCHES:
        await log.write(batch(*values), sync=True)
    store.crash()
    await log.close()
    return store.path


def opened(path: Path) -> list[int] | LogError:
    """What opening finds: as `SqliteLog.open` does it, without a loop and a thread."""
    log = SqliteLog(path, role="coordinator", name="c1")
    connection = log._load(path, isolation_level=None, timeout=0)
    connection.close()
    if log._lock is not None:
        log._lock.release()
    assert log._loaded is not None
    return log._loaded if isinstance(log._loaded, LogError) else numbers(log._loaded[1])


def variant(source: Path, suffix: str, content: bytes) -> Path:
    """A copy of the log with other content in one of its files."""
    target = source.parent / "variant.db"
    for leftover in ("", "-wal", "-shm"):
        target.with_name(target.name + leftover).unlink(missing_ok=True)
    copy_files(source, target)
    target.with_name(target.name + suffix).write_bytes(content)
    return target


def flips(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The content with each byte changed."""
    for position in range(len(content)):
        for mask in MASKS:
            yield position, content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :]


def test_the_sample_is_what_it_should_be(live: Path) -> None:
    assert files.wal_path(live).stat().st_size > 4 * 512
    assert opened(live) == ALL


def test_a_flipped_byte_of_the_write_ahead_log_costs_the_last_batch_at_most(live: Path) -> None:
    content = files.wal_path(live).read_bytes()
    lost = 0
    for position, flipped in flips(content):
        result = opened(variant(live, "-wal", flipped))
        if not isinstance(result, LogDamaged):
            assert result in (ALL, ALL[:-1]), f"byte {position}"
            lost += result != ALL
    assert lost > 0


def test_a_cut_write_ahead_log_is_a_prefix_of_whole_batches(live: Path) -> None:
    content = files.wal_path(live).read_bytes()
    prefixes = [[], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5, 6], ALL]
    seen = [opened(variant(live, "-wal", content[:length])) for length in range(len(content) + 1)]
    assert all(result in prefixes for result in seen)
    assert [result for result, before in zip(seen, [None, *seen], strict=False) if result != before] == prefixes


def test_a_flipped_byte_of_the_file_beneath_costs_nothing(live: Path) -> None:
    for position, flipped in flips(live.read_bytes()):
        result = opened(variant(live, "", flipped))
        assert result == ALL or isinstance(result, LogError), f"byte {position}"


def test_a_flipped_byte_of_a_closed_log_costs_nothing(live: Path) -> None:
    assert opened(live) == ALL  # moves the write-ahead log into the file
    assert not files.wal_path(live).exists()
    refused = 0
    for position, flipped in flips(live.read_bytes()):
        result = opened(variant(live, "", flipped))
        assert result == ALL or isinstance(result, LogError), f"byte {position}"
        refused += result != ALL
    assert refused > 100


def test_a_cut_closed_log_is_refused(live: Path) -> None:
    assert opened(live) == ALL
    content = live.read_bytes()
    for length in range(len(content)):
        result = opened(variant(live, "", content[:length]))
        # A cut zero byte reads as zero.
        assert isinstance(result, LogError) or (result == ALL and length == len(content.rstrip(b"\x00"))), f"cut at {length}"


def test_two_spliced_files_are_refused(live: Path, fast: Path) -> None:
    """The file of one log with the write-ahead log of another."""
    other = fast / "other.db"
    files.prepare(other, IDENTITY).release()
    result = opened(variant(other, "-wal", files.wal_path(live).read_bytes()))
    # Nothing in SQLite ties the two together; what counts is that no half of either is taken.
    assert isinstance(result, LogError) or result == ALL


def test_the_connection_type_is_the_real_one() -> None:
    assert SqliteLog(Path("x"), role="coordinator", name="c1")._connection_type is LogConnection
