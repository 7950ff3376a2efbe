"""The package's public names."""

from __future__ import annotations

import pytest

import participant_sdk


@pytest.mark.parametrize("name", participant_sdk.__all__)
def test_every_public_name_is_there(name: str) -> None:
    public = getattr(participant_sdk, name)
    assert getattr(public, "__name__", name) == name


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = participant_sdk.Nothing
