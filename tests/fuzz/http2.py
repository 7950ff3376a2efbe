"""Frames of HTTP/2 as bytes, for peers that no library would be: what they send, and what they are sent."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_CONCURRENT_STREAMS, ENHANCE_YOUR_CALM = 3, 11


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One frame of HTTP/2."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


GREETING = PREFACE + EMPTY_SETTINGS
NO_WINDOW = PREFACE + frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x00")
"""The greeting of a peer that lets nothing be sent to it."""
SETTINGS_TAKEN = frame(SETTINGS, ACK, 0, b"")
CANCEL = b"\x00\x00\x00\x08"
NO_MESSAGE = b"\x00\x00\x00\x00\x00"
"""An empty message of gRPC."""


def headers(method: str, **more: str) -> bytes:
    """The header block of a call, in HPACK without compression."""
    kind = "application/grpc"
    told = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "content-type": kind, "te": "trailers"} | more
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in told.items())


def opened(method: str, stream: int = 1, **more: str) -> bytes:
    """The headers of a call."""
    return frame(HEADERS, END_HEADERS, stream, headers(method, **more))


def _text(text: str) -> bytes:
    """A text of HPACK, with its length as an integer with a prefix of 7 bits (RFC 7541, 5.1)."""
    length, data = len(text), text.encode()
    if length < 127:
        return bytes([length]) + data
    rest, told = length - 127, bytearray([127])
    while rest >= 128:
        told.append(rest % 128 + 128)
        rest //= 128
    return bytes([*told, rest]) + data


@dataclass(frozen=True, slots=True)
class Heard:
    """One frame that came."""

    kind: int
    flags: int
    stream: int
    body: bytes


def frames(connection: socket.socket) -> Iterator[Heard]:
    """What comes, until the other side closes; a reset ends it just so. Raises `TimeoutError` after the socket's own timeout."""
    waiting = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            waiting += part
            while len(waiting) >= 9 and len(waiting) >= 9 + int.from_bytes(waiting[:3], "big"):
                end = 9 + int.from_bytes(waiting[:3], "big")
                yield Heard(waiting[3], waiting[4], int.from_bytes(waiting[5:9], "big"), waiting[9:end])
                waiting = waiting[end:]
