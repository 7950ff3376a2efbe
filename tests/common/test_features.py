"""Features of the wire and of the log: who uses which."""

from __future__ import annotations

import pytest

from troth import features
from troth.errors import Reason, RequestError


def test_only_what_both_sides_have_and_nobody_holds_back_is_agreed() -> None:
    assert features.agreed([features.CALLERS, "of tomorrow"]) == [features.CALLERS]
    assert features.agreed([]) == features.agreed([features.REVIEWS]) == []
    assert features.agreed([features.CALLERS], f"{features.REVIEWS}, {features.CALLERS}") == []
    assert features.agreed([features.CALLERS], features.ALL) == []


def test_all_are_known_and_others_are_named() -> None:
    assert features.unknown("") == features.unknown("all") == features.unknown(f" {features.CALLERS} ,") == []
    assert features.unknown("callers,zebras,apes") == ["apes", "zebras"]


def test_what_is_held_back_is_refused_with_what_to_do() -> None:
    features.check_used(features.REVIEWS, features.CALLERS)
    with pytest.raises(RequestError, match="held back") as caught:
        features.check_used(features.REVIEWS, features.REVIEWS)
    assert caught.value.reason is Reason.VERSION_MISMATCH and "reload" in caught.value.hint
