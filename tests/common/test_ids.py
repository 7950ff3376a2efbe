"""Ids and names: one id has one text, and nothing is a prefix match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import Reason, RequestError
from troth.ids import TransactionId, check_name, check_participant, service_of

TEXT = "c1.7.9f2c4e1a.3.42"


def test_an_id_is_parsed_and_written_back() -> None:
    parsed = TransactionId.parse(TEXT)
    assert parsed == TransactionId("c1", 7, "9f2c4e1a", 3, 42)
    assert (str(parsed), parsed.session_prefix) == (TEXT, "c1.7.9f2c4e1a.3")


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True),
    st.integers(0, 10**19 - 1),
    st.from_regex(r"[0-9a-f]{8,32}", fullmatch=True),
    st.integers(0, 10**19 - 1),
    st.integers(0, 10**19 - 1),
)
def test_every_id_comes_back(coordinator: str, epoch: int, nonce: str, session: int, number: int) -> None:
    made = TransactionId(coordinator, epoch, nonce, session, number)
    assert TransactionId.parse(str(made)) == made


@given(st.text(alphabet="c1.79fae-_+ \n٣", max_size=30))
def test_what_is_accepted_is_canonical(text: str) -> None:
    try:
        assert str(TransactionId.parse(text)) == text
    except RequestError as error:
        assert error.reason is Reason.INVALID_TRANSACTION_ID


@pytest.mark.parametrize(
    "text",
    [
        "", "c1", "c1.7.9f2c4e1a.3", TEXT + ".1", TEXT + ".", "." + TEXT, TEXT + "\n", " " + TEXT,
        "C1.7.9f2c4e1a.3.42", "-c.7.9f2c4e1a.3.42", ".7.9f2c4e1a.3.42",
        "c1.07.9f2c4e1a.3.42", "c1.+7.9f2c4e1a.3.42", "c1.-7.9f2c4e1a.3.42", "c1..9f2c4e1a.3.42", "c1.٣.9f2c4e1a.3.42",
        "c1.7.9f2c4e1.3.42", "c1.7.9F2C4E1A.3.42", "c1.7.9f2c4e1a.3.10000000000000000000", "c1.7." + "a" * 33 + ".3.42",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        TransactionId.parse(text)
    assert caught.value.reason is Reason.INVALID_TRANSACTION_ID


def test_a_huge_text_is_not_repeated_in_the_error() -> None:
    with pytest.raises(RequestError) as caught:
        TransactionId.parse("x" * 10**6)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["a", "0", "payments", "eu-west_1", "x" * 63])
def test_names(name: str) -> None:
    assert check_name("participant", name) == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a.b", "a b", "a\n", "ä", "x" * 64, "a/b"])
def test_other_names_are_refused_and_say_of_what(name: str) -> None:
    with pytest.raises(RequestError, match="participant") as caught:
        check_name("participant", name)
    assert caught.value.reason is Reason.INVALID_NAME


@pytest.mark.parametrize("name", ["pay", "pay/0", "pay/10", "pay/999999"])
def test_slots_are_participants_of_a_service(name: str) -> None:
    assert check_participant(name) == name
    assert service_of(name) == "pay"


@pytest.mark.parametrize("name", ["", "/0", "pay/", "pay/00", "pay/-1", "pay/1/1", "pay/1000000", "Pay/1", 5])
def test_what_is_no_slot_is_refused(name: str | int) -> None:
    with pytest.raises(RequestError):
        check_participant(name)  # type: ignore[arg-type]  # what somebody may send
