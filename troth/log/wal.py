"""Reading SQLite's write-ahead log, to tell a torn end from damage in the middle.

SQLite takes the frames of a WAL up to the last commit frame before the first frame that does not match its checksum, and
silently ignores the rest. After a crash that is right: the last transaction was being written. But if a frame in the middle rots,
every later transaction would vanish without a word.

Each batch of a log is synced before the next one begins. So a crash can tear one transaction at most, the last. If what follows
the first bad frame belongs to more than one transaction, the file was damaged after it had been synced, and the log must not be
used. Frames of an earlier use of the file (another salt) do not count: a WAL is overwritten from its beginning.

The format is described in https://www.sqlite.org/fileformat2.html#the_write_ahead_log (section 4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC = 0x377F0682
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")


@dataclass(frozen=True, slots=True)
class WalScan:
    """What a WAL holds."""

    frames: int
    """Whole frames in the file, of any age."""
    committed_frames: int
    """Frames that SQLite will use: those of complete transactions before the first bad frame."""
    torn_frames: int
    """Frames after these that were written in the same use of the file; SQLite cuts them."""
    problem: tuple[str, str] | None
    """Where and how the WAL is damaged; `None` for a sound one, torn end or not."""


@dataclass(slots=True)
class _Frame:
    page: int
    pages_after_commit: int
    """Zero unless the frame ends a transaction."""
    salts: tuple[int, int]
    checksum: tuple[int, int]


def scan(data: bytes) -> WalScan:
    """Judge the bytes of a WAL."""
    if len(data) <= HEADER_BYTES:
        return WalScan(0, 0, 0, None)
    magic, _, page_bytes, _, *salts_and_checksum = _HEADER.unpack_from(data)
    order = ">" if magic & 1 else "<"
    checksum = _checksum(order, data[:24], (0, 0))
    if magic & ~1 != _MAGIC or (salts_and_checksum[2], salts_and_checksum[3]) != checksum:
        return WalScan(0, 0, 0, ("byte 0", "the header of the write-ahead log does not match its checksum"))
    salts = (salts_and_checksum[0], salts_and_checksum[1])
    frames = _frames(data, page_bytes)
    committed, bad = _accepted(data, frames, order, page_bytes, salts, checksum)
    tail = _tail(data, frames, order, page_bytes, salts, committed, bad)
    problem = _judge(tail, bad, page_bytes)
    return WalScan(len(frames), committed, len(tail), problem)


def _frames(data: bytes, page_bytes: int) -> list[_Frame]:
    size = FRAME_HEADER_BYTES + page_bytes
    headers = (_FRAME.unpack_from(data, at) for at in range(HEADER_BYTES, len(data) - size + 1, size))
    return [_Frame(page, pages, (salt1, salt2), (sum1, sum2)) for page, pages, salt1, salt2, sum1, sum2 in headers]


def _checksum(order: str, data: bytes, seed: tuple[int, int]) -> tuple[int, int]:
    first, second = seed
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _matches(data: bytes, index: int, order: str, page_bytes: int, frame: _Frame, seed: tuple[int, int]) -> bool:
    """Whether a frame matches its checksum, which goes on from that of the frame before it."""
    at = HEADER_BYTES + index * (FRAME_HEADER_BYTES + page_bytes)
    summed = _checksum(order, data[at : at + 8], seed)
    page_at = at + FRAME_HEADER_BYTES
    return _checksum(order, data[page_at : page_at + page_bytes], summed) == frame.checksum


def _accepted(
    data: bytes, frames: list[_Frame], order: str, page_bytes: int, salts: tuple[int, int], seed: tuple[int, int]
) -> tuple[int, int]:
    """How many frames SQLite will use, and the index of the first bad one."""
    committed = 0
    for index, frame in enumerate(frames):
        if frame.salts != salts or not frame.page or not _matches(data, index, order, page_bytes, frame, seed):
            return committed, index
        seed = frame.checksum
        if frame.pages_after_commit:
            committed = index + 1
    return committed, len(frames)


def _tail(
    data: bytes, frames: list[_Frame], order: str, page_bytes: int, salts: tuple[int, int], committed: int, bad: int
) -> list[_Frame]:
    """The frames of this use of the file that SQLite will cut.

    Their headers say enough; whether their pages are sound does not matter. The first bad frame counts when its salt is right,
    or when the frame after it goes on from its checksum: then the salt itself is what rotted.
    """
    tail = [frame for index, frame in enumerate(frames) if index >= committed and frame.salts == salts and index != bad]
    if bad < len(frames):
        frame = frames[bad]
        goes_on = bad + 1 < len(frames) and frames[bad + 1].salts == salts
        if frame.salts == salts or (goes_on and _matches(data, bad + 1, order, page_bytes, frames[bad + 1], frame.checksum)):
            tail.insert(bad - committed, frame)
    return tail


def _judge(tail: list[_Frame], bad: int, page_bytes: int) -> tuple[str, str] | None:
    """A tail of one torn transaction ends with its only commit frame, and has no page twice; any other is damage."""
    pages = {frame.page for frame in tail}
    if len(pages) == len(tail) and not any(frame.pages_after_commit for frame in tail[:-1]):
        return None
    at = HEADER_BYTES + bad * (FRAME_HEADER_BYTES + page_bytes)
    return f"byte {at} (frame {bad + 1})", "a bad frame stands before transactions that had been synced"
