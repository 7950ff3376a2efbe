"""Addresses: what is refused before gRPC dials it for ever."""

from __future__ import annotations

from typing import Any

import pytest

from participant_sdk import LogResource, Participant
from participant_sdk.client import Client
from troth.address import addresses_of, check_dialled, is_loopback, split_address
from troth.errors import ConfigError

GOOD = ["127.0.0.1:1", "localhost:7420", "[::1]:65535", "[fe80::1%eth0]:7420", "my_service.example.com:7420"]
BAD = [
    ("", "it is empty"), ("localhost", "the port is missing"), ("[::1]", "the port is missing"), ("7420", "the host is missing"),
    (":80", "0.0.0.0 listens everywhere"), ("host:", "no host or port"), ("host:x", "no host or port"),
    ("host:65536", "at most 65535"), ("host:70000000", "no host or port"), ("::1:80", "in brackets"),
    ("a b:80", "no host or port"), ("host:80\n", "no host or port"), ("host:\u0667", "no host or port"),
    ("http://host:80", "scheme"), ("dns:///host:80", "scheme"), (7420, "no text"), (None, "no text"),
]  # fmt: skip


@pytest.mark.parametrize("text", [*GOOD, "0.0.0.0:0"])
def test_addresses(text: str) -> None:
    host, port = split_address(text)
    assert f"{host}:{port}" == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:1", True), ("127.8.8.8:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("10.0.0.1:1", False), ("127.0.0.1.evil.org:1", False), ("[fe80::1%eth0]:1", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(text: str, expected: bool) -> None:
    assert is_loopback(text) is expected


@pytest.mark.parametrize("text", GOOD)
def test_what_can_be_dialled(text: str) -> None:
    assert check_dialled(text) == text
    assert Client(text).address == text


def test_several_nodes_are_each_looked_at() -> None:
    assert check_dialled("a:1, [::1]:2 ,c:3") == "a:1,[::1]:2,c:3"
    assert list(addresses_of("a:1,[::1]:2")) == ["a:1", "[::1]:2"]
    assert list(addresses_of("a:1")) == ["a:1"]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_what_is_no_address_says_why(text: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        split_address(text)
    assert "HOST:PORT, such as 127.0.0.1:7420" in caught.value.hint


@pytest.mark.parametrize("text", [text for text, _ in BAD] + ["host:0", "a:1,", "a:1,b", ",", "a:1,,b:2"])
def test_nobody_dials_what_is_no_address(text: Any, tmp_path: Any) -> None:
    with pytest.raises(ConfigError):
        Client(text)
    with pytest.raises(ConfigError):
        Participant("bank", resource=LogResource(), data_directory=tmp_path, coordinator=text)
