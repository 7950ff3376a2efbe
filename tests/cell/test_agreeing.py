"""Nodes see which of their settings differ."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.cell import agreeing
from coordinator.cell.node import CellNode
from coordinator.config import SETTING_NAMES, Config, load
from coordinator.identity.gate import Gate
from coordinator.services.context import Common
from troth.cell import CellSeen, NodeSeen


def config(**settings: Any) -> Config:
    """The defaults, but for these; nothing of them is checked."""
    usual = load(environment={}).config
    of_shell = {name: value for name, value in settings.items() if hasattr(usual.shell, name)}
    of_core = {name: value for name, value in settings.items() if name not in of_shell}
    return Config(dataclasses.replace(usual.shell, **of_shell), dataclasses.replace(usual.core, **of_core))


def told(**changed: Any) -> str:
    """What a node with these settings says of them."""
    settings = config(**changed)
    return agreeing.told(settings, gate(settings))


def gate(settings: Config) -> Gate:
    return Common(settings.shell).gate


def different(setting: str) -> Any:
    """Another value than the default."""
    value = getattr(config().shell, setting, None)
    value = getattr(config().core, setting) if value is None else value
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value * 0.5


@pytest.mark.parametrize("setting", agreeing.AGREED)
def test_each_setting_that_differs_is_named_and_no_other(setting: str) -> None:
    assert setting in SETTING_NAMES
    other = config(**{setting: different(setting)})
    assert agreeing.differing(told(), agreeing.told(other, gate(config()))) == [setting]


def test_what_is_each_nodes_own_does_not_count() -> None:
    assert agreeing.differing(told(), told(node="b", listen="127.0.0.1:1", keys_max=5, log_level="debug", canary=0.5)) == []


def test_the_policys_content_counts_and_not_its_place(tmp_path: Path) -> None:
    texts = {"a": "mode = 'dry-run'\n", "b": "mode = 'dry-run'\n", "c": "mode = 'enforce'\n"}
    said = {}
    for name, text in texts.items():
        file = tmp_path / f"{name}.toml"
        file.write_text(text)
        file.chmod(0o600)
        said[name] = told(policy=str(file))
    assert agreeing.differing(said["a"], said["b"]) == []
    assert agreeing.differing(said["a"], said["c"]) == ["policy"] == agreeing.differing(said["c"], told())


def test_other_software_may_know_more_or_nothing() -> None:
    assert agreeing.differing(told(), "") == []
    assert agreeing.differing(told(), f"{told()},a_new_one=123456") == []
    assert agreeing.differing(f"{told()},a_new_one=123456", told()) == []


def test_no_value_can_be_read_from_it() -> None:
    said = told(reviews="resolve")
    assert "/" not in said, "the store's text is divided by slashes"
    assert "resolve" not in said and len(said) < 1_000


def seen(**settings: str) -> CellSeen:
    return CellSeen(tuple(NodeSeen(name, "n:1", False, name != "dead", 1.0, 1.0, (), text) for name, text in settings.items()), ())


def test_a_node_tells_of_each_difference_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(store="host=nowhere", data_directory=str(tmp_path))
    node = CellNode(settings, tell=lambda what: None, serving=lambda what: None)
    own = node._store.settings = agreeing.told(settings, node._common.gate)
    other, worse = told(reviews="resolve"), told(reviews="resolve", retention_seconds=7200.0)
    steps: Sequence[tuple[dict[str, str], dict[str, list[str]], int]] = (
        ({"a": own, "dead": other}, {}, 0),
        ({"a": own, "b": other}, {"b": ["reviews"]}, 1),
        ({"a": own, "b": other}, {"b": ["reviews"]}, 0),
        ({"a": own, "b": worse}, {"b": ["retention_seconds", "reviews"]}, 1),
        ({"a": own, "b": own}, {}, 1),
        ({"a": own}, {}, 0),
    )
    for nodes, otherwise, lines in steps:
        caplog.clear()
        with caplog.at_level(logging.INFO, "troth.cell"):
            node._compare(seen(**nodes))
        assert node._common.otherwise == otherwise
        assert len(caplog.records) == lines, caplog.text
