"""Failpoints: armed by name, hit the nth time, and free when none is armed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from troth import failpoints
from troth.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been done to the process."""
    actions: list[str] = []
    monkeypatch.setattr(failpoints, "_act", actions.append)
    return actions


def test_nothing_is_armed_by_itself(acts: list[str]) -> None:
    assert not failpoints.armed
    failpoints.hit("coordinator", "after-sync", "decided")
    assert acts == []


def test_the_nth_hit_acts_once(acts: list[str]) -> None:
    failpoints.arm("coordinator:after-sync:decided=kill@3, participant:before-send:votes=stop")
    assert failpoints.armed
    for _ in range(5):
        failpoints.hit("coordinator", "after-sync", "decided")
    failpoints.hit("coordinator", "before-sync", "decided")
    assert acts == ["kill"]
    failpoints.hit("participant", "before-send", "votes")
    assert acts == ["kill", "stop"]


def test_an_empty_text_disarms(acts: list[str]) -> None:
    failpoints.arm("a:b:c=kill")
    failpoints.arm(" , ")
    assert not failpoints.armed
    failpoints.hit("a", "b", "c")
    assert acts == []


@pytest.mark.parametrize("text", ["x", "a:b=kill", "a:b:c=burn", "a:b:c=kill@0", "a:b:c=kill@x", "a:b:c=kill\n@1"])
def test_a_mistyped_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="failpoint"):
        failpoints.arm(text)


def test_the_environment_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.arm_from_environment()
    assert not failpoints.armed
    monkeypatch.setenv(failpoints.VARIABLE, "coordinator:after-sync:decided=kill@3")
    failpoints.arm_from_environment()
    assert failpoints.armed


@pytest.mark.parametrize(("action", "status"), [("kill", -signal.SIGKILL), ("exit", failpoints.EXIT_STATUS)])
def test_the_process_ends(action: str, status: int) -> None:
    code = "from troth import failpoints as f; f.arm_from_environment(); f.hit('a', 'b', 'c')"
    environment = os.environ | {failpoints.VARIABLE: f"a:b:c={action}"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False).returncode == status


def test_exit_does_no_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(os, "kill", lambda *arguments: None)
    failpoints.arm("a:b:c=exit")
    failpoints.hit("a", "b", "c")
    assert ended == [failpoints.EXIT_STATUS]


def test_stop_is_a_stop_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    failpoints.arm("a:b:c=stop")
    failpoints.hit("a", "b", "c")
    assert sent == [(os.getpid(), signal.SIGSTOP)]


def test_an_observer_hears_of_every_point_until_it_is_gone(acts: list[str]) -> None:
    heard: list[str] = []
    with failpoints.observed(heard.append):
        assert failpoints.armed
        failpoints.arm("participant:after-sync:branch_prepared=kill")
        failpoints.arm("")
        assert failpoints.armed
        failpoints.hit("participant", "after-sync", "branch_prepared")
        with pytest.raises(AssertionError, match="observed already"), failpoints.observed(heard.append):
            pass
    assert not failpoints.armed
    failpoints.hit("participant", "after-sync", "branch_prepared")
    assert heard == ["participant:after-sync:branch_prepared"]
    assert acts == []
