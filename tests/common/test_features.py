"""Features of the wire and of the log: who uses which."""

from __future__ import annotations

import pytest

from troth import features
from troth.errors import Reason, RequestError
from troth.v1 import admin_pb2, client_pb2


def test_only_what_both_sides_have_and_nobody_holds_back_is_agreed() -> None:
    assert features.agreed([features.CALLERS, "of tomorrow"]) == [features.CALLERS]
    assert features.agreed([]) == features.agreed([features.REVIEWS]) == []
    assert features.agreed([features.CALLERS], f"{features.REVIEWS}, {features.CALLERS}") == []
    assert features.agreed([features.CALLERS], features.ALL) == []


def test_all_are_known_and_others_are_named() -> None:
    assert features.unknown("") == features.unknown("all") == features.unknown(f" {features.CALLERS} ,") == []
    assert features.unknown("callers,zebras,apes") == ["apes", "zebras"]


def test_an_order_needs_what_an_older_version_would_pass_over_in_it() -> None:
    """A field that is not said needs nothing: who does not use what is new is understood by everybody."""
    assert features.needed(admin_pb2.ResolveRequest(transaction_id="c1.1.0a0b0c0d.1.1", review=True)) == {features.REVIEWS}
    assert features.needed(admin_pb2.AcceptLossRequest(participant="bank")) == {features.PARTICIPANT_LOSSES}
    assert features.needed(client_pb2.CommitRequest(result=b"r")) == {features.KEY_RESULTS}
    for older in (admin_pb2.ResolveRequest(why="w"), admin_pb2.AcceptLossRequest(why="w"), client_pb2.CommitRequest(number=1)):
        assert not features.needed(older)


def test_what_is_used_is_what_is_not_held_back() -> None:
    assert features.used("") == features.NAMES and not features.used(features.ALL)
    assert features.used(features.REVIEWS) == features.NAMES - {features.REVIEWS}


def test_what_is_held_back_is_refused_with_what_to_do() -> None:
    features.check_used(features.REVIEWS, features.CALLERS)
    with pytest.raises(RequestError, match="held back") as caught:
        features.check_used(features.REVIEWS, features.REVIEWS)
    assert caught.value.reason is Reason.VERSION_MISMATCH and "reload" in caught.value.hint
