"""Rings of payload keys: where they come from, and what is refused."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import pytest

from troth import payload_keys
from troth.errors import ConfigError, Reason
from troth.payload_keys import Keyring, Ring, draw, parse, read


def written(path: Path, ring: Ring, mode: int = 0o600) -> Path:
    path.write_text(ring.text())
    path.chmod(mode)
    return path


def test_a_ring_comes_from_a_file_a_variable_or_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring((draw(),)).rotated()
    path = written(tmp_path / "keys.toml", ring)
    monkeypatch.setenv("RING", ring.text())
    assert read(path) == read(str(path)) == read("env:RING") == ring
    assert read(f"exec:{sys.executable} -c 'print(open(\"{path}\").read())'") == ring


def test_a_rotated_ring_seals_with_a_new_key_and_has_the_old_ones() -> None:
    first = Ring((draw(),))
    second = first.rotated()
    assert second.newest.id != first.newest.id
    assert second.secret_of(first.newest.id) == first.newest.secret
    assert second.secret_of("another") is None


def test_nothing_that_is_shown_has_the_secret() -> None:
    key = draw()
    assert repr(key.secret) not in repr(key)
    assert "secret" not in repr(Ring((key,)))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o601])
def test_a_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = written(tmp_path / "keys.toml", Ring((draw(),)), mode)
    with pytest.raises(ConfigError, match="is open to others") as caught:
        read(path)
    assert caught.value.reason is Reason.CONFIG
    assert "chmod 0600" in caught.value.hint


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RING", raising=False)
    for source, told in (
        (str(tmp_path / "none.toml"), "none.toml cannot be read"), ("env:RING", "the variable RING is not set"),
        ("exec:", "names no command"), (f"exec:{sys.executable} -c 'raise SystemExit(3)'", "gave no payload keys: exit code 3"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            read(source)


SECRET = base64.b64encode(b"s" * 32).decode()
WRONG = [
    ("", "has no payload key"),
    ("key = 3", "has no payload key"),
    ("key = [3]", "key 1 of it has not id, secret and made alone"),
    (f'[[key]]\nid = "k1"\nsecret = "{SECRET}"\nmore = 1', "key 1 of it has not id, secret and made alone"),
    (f'[[key]]\nid = "a b"\nsecret = "{SECRET}"', "the id of key 1 of it is none"),
    (f'[[key]]\nid = "k1"\nsecret = "{SECRET[:-4]}"', "is not 32 bytes in base64"),
    ('[[key]]\nid = "k1"\nsecret = "?"', "is not 32 bytes in base64"),
    (f'[[key]]\nid = "k1"\nsecret = "{SECRET}"\n' * 2, "two keys of one id"),
    (f"[[key]]\nsecret = {SECRET}", "it is no TOML"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_text_that_is_no_ring_is_refused_without_a_word_of_the_secret(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse(text, "it")
    assert SECRET[:20] not in str(caught.value)
    assert caught.value.hint


def test_a_key_may_have_no_day() -> None:
    assert parse(f'[[key]]\nid = "k1"\nsecret = "{SECRET}"', "it").newest.made == ""
    assert payload_keys.ID.fullmatch(draw().id)


class Moving:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def move(self) -> None:
        self.now += payload_keys.LOOK_SECONDS


def test_a_file_is_read_again_once_it_has_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, clock = Ring((draw(),)), Moving()
    path = written(tmp_path / "keys.toml", first)
    keyring = Keyring(path, clock)
    second = first.rotated()
    written(path, second)
    assert keyring() == first, "it is looked at once a second"
    clock.move()
    assert keyring() == second
    clock.move()
    assert keyring() == second
    assert caplog.messages == [f"new payload keys are in use sealing={second.newest.id}"]


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("nonsense = [", 0o600, "is no TOML"), (Ring((draw(),)).text(), 0o600, "has not the key"),
        (Ring((draw(),)).text(), 0o644, "is open to others"), (None, 0, "cannot be read"),
    ],
)  # fmt: skip
def test_new_keys_that_cannot_be_used_are_told_once_and_the_last_good_ones_stay(
    text: str | None, mode: int, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, clock = Ring((draw(),)), Moving()
    path = written(tmp_path / "keys.toml", first)
    keyring = Keyring(path, clock)
    path.unlink()
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    for _ in range(3):
        clock.move()
        assert keyring() == first
    (line,) = caplog.messages
    assert told in line
    assert "hint=" in line
    written(path, first.rotated())
    clock.move()
    assert keyring().secret_of(first.newest.id) == first.newest.secret


def test_what_a_variable_or_a_command_gives_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, clock = Ring((draw(),)), Moving()
    monkeypatch.setenv("RING", first.text())
    keyring = payload_keys.keyring("env:RING")
    monkeypatch.setenv("RING", first.rotated().text())
    clock.move()
    assert keyring is not None
    assert keyring() == first
    assert payload_keys.keyring("") is None


def test_what_encrypts_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match="extra 'pki'"):
        payload_keys.keyring("env:RING")


def test_a_key_goes_and_the_one_that_seals_stays() -> None:
    ring = Ring((draw(),)).rotated()
    assert ring.without(ring.keys[1].id).keys == ring.keys[:1]
    assert ring.without(ring.newest.id) == ring
    assert ring() == ring
