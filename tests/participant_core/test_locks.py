"""The lock table: named cases, then any sequence of requests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from participant_sdk.core.locks import YOUNGEST, Answer, LockTable


def age(number: int) -> tuple[int, str]:
    """An age."""
    return (number, f"t{number}")


def test_owner_may_ask_again_for_what_it_holds() -> None:
    table = LockTable(9)
    assert table.request("a", age(1), ["x", "x"]) is Answer.GRANTED
    assert table.request("a", age(1), ["x", "y"]) is Answer.GRANTED
    assert sorted(table.held("a")) == ["x", "y"]
    assert table.release("a") == []
    assert table.release("a") == [] and table.withdraw("a") == []
    assert list(table.owners()) == []


def test_whole_resource_conflicts_with_everybody_even_without_keys() -> None:
    table = LockTable(9)
    assert table.request("a", age(5), []) is Answer.GRANTED
    assert table.request("b", age(4), ["*"]) is Answer.WAITS
    assert table.request("c", age(6), ["x"]) is Answer.DIES, "an older one is in line for everything"
    assert table.request("d", age(3), []) is Answer.WAITS, "no key at all, and yet in line behind the whole"
    assert table.release("a") == ["b"]
    assert table.request("e", age(2), ["x"]) is Answer.WAITS
    assert table.release("b") == ["d", "e"]


def test_holder_of_the_whole_may_take_more() -> None:
    table = LockTable(9)
    assert table.request("a", age(5), ["*"]) is Answer.GRANTED
    assert table.request("a", age(5), ["x"]) is Answer.GRANTED
    assert table.request("b", age(4), ["x"]) is Answer.WAITS
    assert table.release("a") == ["b"]


def test_waiters_are_served_in_line_and_whoever_leaves_lets_others_on() -> None:
    table = LockTable(9)
    assert table.request("a", age(9), ["x"]) is Answer.GRANTED
    assert table.request("b", age(8), ["x", "y"]) is Answer.WAITS
    assert table.request("c", age(7), ["y"]) is Answer.WAITS, "nobody holds y, but b was here first"
    assert table.request("d", age(8), ["y"]) is Answer.DIES
    assert table.withdraw("b") == ["c"]
    assert table.release("a") == []


def test_line_is_bounded() -> None:
    table = LockTable(1)
    assert table.request("a", age(9), ["x"]) is Answer.GRANTED
    assert table.request("b", age(8), ["x"]) is Answer.WAITS
    assert table.request("c", age(7), ["x"]) is Answer.FULL
    assert table.waiting() == 1


def test_patient_owner_never_dies_and_is_passed_by_whoever_holds_something() -> None:
    table = LockTable(9)
    assert table.request("a", age(1), ["x"]) is Answer.GRANTED
    assert table.request("local", YOUNGEST, ["*"]) is Answer.WAITS
    assert table.request("local too", YOUNGEST, ["*"]) is Answer.WAITS
    assert table.request("b", age(2), ["y"]) is Answer.WAITS, "it holds nothing: it stands in line"
    assert table.request("a", age(1), ["z"]) is Answer.GRANTED, "local work waits for it anyway"
    assert table.release("a") == ["local"]
    assert table.release("local") == ["local too"]
    assert table.release("local too") == ["b"]


def test_recovery_takes_what_is_free() -> None:
    table = LockTable(9)
    table.take("a", age(1), ["x", "y"])
    table.take("b", age(2), ["y", "z"])
    assert table.held("b") == ["z"]
    assert table.request("c", age(0), ["y"]) is Answer.WAITS


OWNERS = st.integers(0, 6)
KEYS = st.lists(st.sampled_from(["x", "y", "z", "*"]), max_size=3)
STEPS = st.lists(st.tuples(st.sampled_from(["request", "release", "withdraw"]), OWNERS, KEYS), max_size=60)


class Model:
    """What must be true of a table, whatever it was asked for."""

    def __init__(self, patient: frozenset[int]) -> None:
        self.table = LockTable(5)
        self.patient = patient
        self.wanted: dict[int, list[str]] = {}

    def age(self, owner: int) -> tuple[int, str]:
        """Lower numbers are older."""
        return YOUNGEST if owner in self.patient else age(owner)

    def step(self, what: str, owner: int, keys: list[str]) -> None:
        """One step that is allowed."""
        if what == "request" and owner not in self.wanted:
            answer = self.table.request(owner, self.age(owner), keys)
            assert not (answer is Answer.DIES and owner in self.patient)
            if answer is Answer.WAITS:
                self.wanted[owner] = keys
        elif what == "release" and owner not in self.wanted:
            self.granted(self.table.release(owner))
        elif what == "withdraw":
            self.wanted.pop(owner, None)
            self.granted(self.table.withdraw(owner))

    def granted(self, owners: list[int]) -> None:  # type: ignore[type-arg, unused-ignore]  # owners are numbers here
        """Whoever was granted waited."""
        for owner in owners:
            del self.wanted[owner]

    def conflict(self, one: list[str], other: list[str]) -> bool:
        """Whether two sets of keys cannot be held at once."""
        return "*" in one or "*" in other or bool(set(one) & set(other))

    def check(self) -> None:
        """Exclusive; nobody waits without a reason; without local work the oldest who waits can always get on."""
        table = self.table
        held = {owner: list(table.held(owner)) for owner in table.owners()}
        assert list(table.in_line()) == list(self.wanted)
        for one, keys in held.items():
            for other, others in held.items():
                assert one == other or not self.conflict(keys, others), (held, one, other)
        ahead: list[int] = []
        for owner, keys in self.wanted.items():
            holders = [other for other in held if other != owner and self.conflict(keys, held[other])]
            waiters = [other for other in ahead if self.conflict(keys, self.wanted[other])]
            assert holders or waiters, f"{owner} waits for nobody"
            ahead.append(owner)
            if not self.patient:
                assert all(other > owner for other in [*holders, *waiters]), f"{owner} waits for an older one"


@given(STEPS, st.frozensets(OWNERS, max_size=2))
@settings(max_examples=300, deadline=None)
def test_any_sequence(steps: list[tuple[str, int, list[str]]], patient: frozenset[int]) -> None:
    model = Model(patient)
    for step in steps:
        model.step(*step)
        model.check()
    # When everybody who does not wait lets go, again and again, everybody gets on: no cycle in one table.
    for _ in range(20):
        for owner in list(model.table.owners()):
            if owner not in model.wanted:
                model.granted(model.table.release(owner))
    if not patient:
        assert not model.wanted and not list(model.table.owners())
