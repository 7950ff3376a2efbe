"""What the coverage-guided fuzzer runs, without its guide: its corpus, the corpus with bytes changed, and noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budget import budget
from tests.fuzz.coverage_guided import corpus, frames, one_input, packed

CORPUS = list(corpus())


@pytest.mark.parametrize("number", range(len(CORPUS)))
def test_the_corpus_is_harmless(number: int) -> None:
    one_input(CORPUS[number])


@budget(60)
@given(st.integers(0, len(CORPUS) - 1), st.integers(0, 2**32))
def test_changed_bytes_are_harmless(number: int, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(CORPUS[number])
    for _ in range(chance.randrange(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    one_input(bytes(data))


@budget(30)
@given(st.binary(max_size=300))
def test_noise_is_harmless(data: bytes) -> None:
    one_input(data)


def test_packed_frames_are_taken_apart() -> None:
    parts = [(0, b""), (3, b"abc"), (4, b"x" * 300)]
    assert list(frames(packed(*parts))) == parts
