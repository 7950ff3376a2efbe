"""The lock table: named cases, then any sequence of requests at one table. Several tables together are in `test_waiting.py`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from participant_sdk.core.locks import LOCAL, OLDEST, Answer, LockTable, Rank, conflict
from participant_sdk.core.work import NO_KEYS, SHARED_WHOLE, WHOLE, Keys


def by_age(number: int) -> Rank:
    """The rank of an interactive transaction."""
    age = (number, f"t{number}")
    return Rank(age, age)


def in_order(number: int, eldest: int = 0, sequence: str = "c1.1.aa") -> Rank:
    """The rank of a one-shot with this age, begun when the eldest undecided one had that age."""
    return Rank((number, f"o{number}"), (eldest, ""), sequence)


def nowhere_else(number: int) -> Rank:
    """The rank of a one-shot with a single branch."""
    return in_order(number, number)._replace(alone=True)


def alone(*keys: str) -> Keys:
    """Exclusive keys."""
    return Keys(keys)


def shared(*keys: str) -> Keys:
    """Shared keys."""
    return Keys((), keys)


def test_owner_may_ask_again_for_what_it_holds() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(2), alone("x", "x")) is Answer.GRANTED
    assert table.request("a", by_age(2), alone("x", "y")) is Answer.GRANTED
    assert table.request("b", by_age(1), alone("x")) is Answer.WAITS
    assert table.request("a", by_age(2), alone("x")) is Answer.GRANTED, "whoever waits for it is not in its way"
    assert sorted(table.held("a").exclusive) == ["x", "y"]
    assert table.release("a") == ["b"]
    assert table.release("a") == [] and table.withdraw("a") == []
    assert list(table.owners()) == ["b"]


def test_whole_resource_conflicts_with_everybody_even_without_keys() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), NO_KEYS) is Answer.GRANTED
    assert table.request("b", by_age(4), WHOLE) is Answer.WAITS
    assert table.request("c", by_age(6), alone("x")) is Answer.DIES, "an older one is in line for everything"
    assert table.request("d", by_age(3), NO_KEYS) is Answer.WAITS, "no key at all, and yet in line behind the whole"
    assert table.release("a") == ["b"]
    assert table.request("e", by_age(2), alone("x")) is Answer.WAITS
    assert table.release("b") == ["d", "e"]


def test_holder_of_the_whole_may_take_more() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), WHOLE) is Answer.GRANTED
    assert table.request("a", by_age(5), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(4), alone("x")) is Answer.WAITS
    assert table.release("a") == ["b"]


def test_waiters_are_served_in_line_and_whoever_leaves_lets_others_on() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(9), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(8), alone("x", "y")) is Answer.WAITS
    assert table.request("c", by_age(7), alone("y")) is Answer.WAITS, "nobody holds y, but b was here first"
    assert table.request("d", by_age(8), alone("y")) is Answer.DIES
    assert table.waits_for("b") == ["a"] and table.waits_for("c") == ["b"]
    assert table.withdraw("b") == ["c"]
    assert table.release("a") == []


def test_line_is_bounded() -> None:
    table = LockTable(1)
    assert table.request("a", by_age(9), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(8), alone("x")) is Answer.WAITS
    assert table.request("c", by_age(7), alone("x")) is Answer.FULL
    assert table.waiting() == 1


def test_one_shots_of_one_sequence_wait_in_their_order_whatever_their_age() -> None:
    table = LockTable(9)
    assert table.request("o1", in_order(5), alone("x")) is Answer.GRANTED
    assert table.request("o2", in_order(9), alone("x")) is Answer.WAITS, "younger"
    assert table.request("o3", in_order(1), alone("x")) is Answer.WAITS, "older"
    assert table.request("o4", in_order(9, sequence="c1.2.bb"), alone("x")) is Answer.DIES, "of another life: by age"
    assert table.release("o1") == ["o2"]
    assert table.release("o2") == ["o3"]


def test_who_came_out_of_order_waits_by_age() -> None:
    table = LockTable(9)
    assert table.request("o2", in_order(5, eldest=3), alone("x")) is Answer.GRANTED
    assert table.request("o1", in_order(4, sequence=""), alone("x")) is Answer.DIES
    assert table.request("o0", in_order(2, sequence=""), alone("x")) is Answer.WAITS, "older than all that o2 answers for"


def test_of_two_with_the_same_time_the_lower_id_is_the_older() -> None:
    table = LockTable(9)
    ranks = {name: Rank((5, name), (5, name)) for name in ("c1.1.0123abcd.1.1", "c1.1.0123abcd.1.2", "c1.1.0123abcd.1.3")}
    first, second, third = ranks
    assert table.request(second, ranks[second], alone("x")) is Answer.GRANTED
    assert table.request(third, ranks[third], alone("x")) is Answer.DIES
    assert table.request(first, ranks[first], alone("x")) is Answer.WAITS


def test_a_one_shot_answers_for_all_that_may_be_before_it() -> None:
    table = LockTable(9)
    assert table.request("o", in_order(9, eldest=3), alone("x")) is Answer.GRANTED
    assert table.request("i5", by_age(5), alone("x")) is Answer.DIES, "older than o, but perhaps not than whom o waits for"
    assert table.request("i2", by_age(2), alone("x")) is Answer.WAITS
    assert table.request("o2", in_order(7, eldest=3), alone("x")) is Answer.DIES, "younger than i2, which is in line"
    assert table.request("o3", in_order(1, eldest=1), alone("x")) is Answer.WAITS


def test_everybody_may_wait_for_who_ends_and_nobody_for_who_cannot() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(1), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(2), alone("x")) is Answer.DIES
    table.finishing("a")
    assert table.request("b", by_age(2), alone("x")) is Answer.WAITS
    assert table.request("o", in_order(9), alone("x")) is Answer.DIES, "b is older, and in line"
    table.withdraw("b")
    table.stuck("a")
    assert table.request("c", by_age(0), alone("x")) is Answer.DIES
    assert table.request("local", LOCAL, alone("x")) is Answer.WAITS
    table.finishing("stranger")
    table.stuck("stranger")
    assert table.release("a") == ["local"]


def test_whoever_stands_behind_one_that_is_nowhere_else_waits_for_those_before_it() -> None:
    table = LockTable(9)
    assert table.request("i3", by_age(3), alone("x")) is Answer.GRANTED
    assert table.request("o2", nowhere_else(2), alone("x", "y")) is Answer.WAITS
    assert table.request("o1", nowhere_else(1), alone("y", "z")) is Answer.WAITS
    assert table.request("i4", by_age(4), alone("z")) is Answer.DIES, "i3 is older, and before all of them"
    assert table.request("i2", by_age(2), alone("z")) is Answer.WAITS, "whatever the age of o1"
    assert table.request("i5", by_age(5), shared("y")) is Answer.DIES
    assert table.release("i3") == ["o2"]
    assert table.request("i9", by_age(9), alone("x")) is Answer.WAITS, "it has all that it needs, and so ends"
    assert table.release("o2") == ["o1", "i9"]
    table.stuck("o1")
    assert table.request("o8", nowhere_else(0), alone("z")) is Answer.DIES


def test_nobody_waits_for_itself_through_others() -> None:
    table = LockTable(9)
    assert table.request("i5", by_age(5), alone("x")) is Answer.GRANTED
    assert table.request("o1", nowhere_else(1), alone("x", "y")) is Answer.WAITS
    assert table.request("o2", nowhere_else(2), alone("y", "z")) is Answer.WAITS
    assert table.request("i5", by_age(5), alone("z")) is Answer.DIES, "behind o2, behind o1, behind itself"
    assert table.request("local", LOCAL, alone("z", "w")) is Answer.WAITS
    assert table.request("i5", by_age(5), alone("w")) is Answer.WAITS, "local work lets pass in the end"
    assert table.let_pass("local", True) == ["i5"]
    assert table.request("i5", by_age(5), alone("z")) is Answer.DIES, "past local work, and still behind o2"
    assert table.release("i5") == ["o1"]


def test_who_holds_something_looks_past_those_that_are_nowhere_else() -> None:
    table = LockTable(9)
    assert table.request("i5", by_age(5), Keys(("y",), ("x",))) is Answer.GRANTED
    assert table.request("i2", by_age(2), alone("x", "y")) is Answer.WAITS
    assert table.request("o4", nowhere_else(1), shared("x")) is Answer.WAITS, "behind i2"
    assert table.request("i5", by_age(5), alone("x")) is Answer.DIES, "behind o4, behind i2, behind itself"


def test_what_is_free_is_taken_past_nobody() -> None:
    table = LockTable(9)
    assert table.request("o1", in_order(1), alone("x")) is Answer.GRANTED
    assert table.request("o2", in_order(2), alone("x", "y")) is Answer.WAITS
    assert table.request("o3", in_order(3), alone("z")) is Answer.GRANTED
    assert not table.take_if_free("o3", alone("y")) and not table.take_if_free("o3", shared("x"))
    assert table.take_if_free("o3", Keys(("z",), ("w",))) and table.held("o3") == Keys(("z",), ("w",))
    assert table.take_if_free("o3", alone("z")) and table.take_if_free("o1", alone("y")), "o2 waits for o1 in any case"
    assert table.release("o1") == ["o2"]


def test_sharers_do_not_wait_for_each_other_and_nobody_jumps_the_line() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(9), shared("x")) is Answer.GRANTED
    assert table.request("b", by_age(9), shared("x", "x")) is Answer.GRANTED
    assert table.request("c", by_age(5), alone("x")) is Answer.WAITS
    assert sorted(map(str, table.waits_for("c"))) == ["a", "b"]
    assert table.request("d", by_age(4), shared("x")) is Answer.WAITS, "behind c"
    assert table.request("e", by_age(3), shared("x")) is Answer.WAITS
    assert table.release("a") == []
    assert table.release("b") == ["c"]
    assert table.release("c") == ["d", "e"]
    assert table.held("d") == shared("x")


def test_a_sharer_may_ask_for_the_key_alone() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), shared("x")) is Answer.GRANTED
    assert table.request("a", by_age(5), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(4), shared("x")) is Answer.WAITS
    assert table.release("a") == ["b"]
    assert table.request("c", by_age(9), shared("x")) is Answer.GRANTED
    assert table.request("c", by_age(9), alone("x")) is Answer.DIES
    assert table.request("b", by_age(4), alone("x")) is Answer.WAITS
    assert table.request("c", by_age(9), shared("x")) is Answer.GRANTED, "it has it"
    assert table.release("c") == ["b"]
    assert table.request("b", by_age(4), shared("x")) is Answer.GRANTED, "it has more"


def test_the_whole_is_shared_by_those_who_hold_nothing_else() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(9), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("b", by_age(8), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("c", by_age(7), shared("x")) is Answer.WAITS, "it may change what it does not name"
    assert table.request("d", by_age(6), NO_KEYS) is Answer.WAITS
    assert table.release("a") == []
    assert table.release("b") == ["c", "d"]
    assert table.request("e", by_age(5), SHARED_WHOLE) is Answer.WAITS
    assert table.release("c") == [] and table.release("d") == ["e"]


def test_who_shares_the_whole_and_does_something_else_needs_it_alone() -> None:
    assert SHARED_WHOLE.only_read and shared("x").only_read and not NO_KEYS.only_read and not Keys(("x",), ("y",)).only_read
    table = LockTable(9)
    assert table.request("a", by_age(9), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("b", by_age(8), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("a", by_age(9), NO_KEYS) is Answer.DIES, "it could change what b reads"
    assert table.request("a", by_age(9), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("b", by_age(8), alone("x")) is Answer.WAITS
    assert table.release("a") == ["b"]
    assert "*" in table.held("b").exclusive
    assert table.request("b", by_age(8), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(8), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("c", by_age(7), SHARED_WHOLE) is Answer.WAITS
    assert table.release("b") == ["c"]
    assert table.request("d", by_age(7), alone("x")) is Answer.DIES
    assert table.release("c") == []
    assert table.request("d", by_age(7), alone("x")) is Answer.GRANTED
    assert table.request("d", by_age(7), SHARED_WHOLE) is Answer.GRANTED
    assert table.request("e", by_age(6), SHARED_WHOLE) is Answer.WAITS, "d holds something else besides"


def test_an_owner_passes_those_who_wait_for_it_anyway() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(5), alone("x")) is Answer.GRANTED
    assert table.request("b", by_age(4), alone("x", "y")) is Answer.WAITS
    assert table.request("a", by_age(5), alone("y")) is Answer.GRANTED, "b waits for it in any case"
    assert table.request("c", by_age(6), alone("z")) is Answer.GRANTED
    assert table.request("c", by_age(6), alone("y")) is Answer.DIES
    assert table.release("a") == ["b"]


def test_local_work_never_dies_and_bars_others_only_while_it_is_its_turn() -> None:
    table = LockTable(9)
    assert table.request("a", by_age(1), alone("x")) is Answer.GRANTED
    assert table.request("local", LOCAL, WHOLE) is Answer.WAITS
    assert table.request("b", by_age(2), alone("y")) is Answer.WAITS, "it stands in line"
    assert table.request("a", by_age(1), alone("z")) is Answer.GRANTED, "local work waits for it anyway"
    assert table.let_pass("local", True) == ["b"]
    assert table.request("c", by_age(2), alone("w")) is Answer.GRANTED
    assert table.let_pass("local", False) == []
    assert table.request("d", by_age(3), alone("v")) is Answer.WAITS
    assert table.let_pass("nobody", True) == []
    for owner in ("a", "b"):
        assert table.release(owner) == []
    assert table.release("c") == ["local"]
    assert table.release("local") == ["d"]


def test_recovery_takes_what_is_free() -> None:
    table = LockTable(9)
    table.take("a", by_age(1), Keys(("x", "y"), ("s",)))
    table.take("b", Rank((2, "b"), OLDEST, "c1.1.aa"), Keys(("y", "z"), ("x", "s")))
    assert table.held("b") == Keys(("z",), ("s",))
    assert table.held("nobody") == NO_KEYS
    assert table.request("c", by_age(0), alone("y")) is Answer.WAITS
    assert table.request("d", by_age(0), alone("z")) is Answer.DIES, "for whom it may wait is not known any more"
    assert table.request("o", in_order(9), alone("z")) is Answer.WAITS, "it came first"


OWNERS = st.integers(0, 6)
KEYS = st.builds(
    lambda exclusive, shared: WHOLE if "*" in exclusive else Keys(tuple(exclusive), tuple(set(shared) - set(exclusive))),
    st.lists(st.sampled_from(["x", "y", "z", "*"]), max_size=2, unique=True),
    st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True),
) | st.just(SHARED_WHOLE)
STEPS = st.lists(st.tuples(st.sampled_from(["request", "release", "withdraw", "pass", "bar"]), OWNERS, KEYS), max_size=60)


class Model:
    """What must be true of a table, whatever it was asked for."""

    def __init__(self, local: frozenset[int]) -> None:
        self.table = LockTable(5)
        self.local = local
        self.wanted: dict[int, Keys] = {}
        self.got: dict[int, list[Keys]] = {}
        """What each owner was granted, as it asked for it."""
        self.passed: set[int] = set()

    def rank(self, owner: int) -> Rank:
        """Lower numbers are older."""
        return LOCAL if owner in self.local else by_age(owner)

    def step(self, what: str, owner: int, keys: Keys) -> None:
        """One step that is allowed."""
        if what == "request" and owner not in self.wanted:
            answer = self.table.request(owner, self.rank(owner), keys)
            assert not (answer is Answer.DIES and owner in self.local)
            if answer is Answer.WAITS:
                self.wanted[owner] = keys
            elif answer is Answer.GRANTED:
                self.got.setdefault(owner, []).append(keys)
        elif what == "release" and owner not in self.wanted:
            self.got.pop(owner, None)
            self.granted(self.table.release(owner))
        elif what == "withdraw":
            self.wanted.pop(owner, None)
            self.passed.discard(owner)
            self.granted(self.table.withdraw(owner))
        elif what in ("pass", "bar") and owner in self.local and owner in self.wanted:
            (self.passed.add if what == "pass" else self.passed.discard)(owner)
            self.granted(self.table.let_pass(owner, what == "pass"))

    def granted(self, owners: list[int]) -> None:  # type: ignore[type-arg, unused-ignore]  # owners are numbers here
        """Whoever was granted waited."""
        for owner in owners:
            self.got.setdefault(owner, []).append(self.wanted.pop(owner))
            self.passed.discard(owner)

    def check(self) -> None:
        """Nobody holds what another has alone; nobody waits without a reason, nor for an older one."""
        table = self.table
        held = {owner: table.held(owner) for owner in table.owners()}
        assert list(table.in_line()) == list(self.wanted)
        for one, keys in held.items():
            for other, others in held.items():
                assert one == other or not conflict(keys, others), (held, one, other)
                pairs = [(mine, his) for mine in self.got[one] for his in self.got[other]]
                assert one == other or not any(conflict(*pair) for pair in pairs), (self.got, one, other)
        ahead: list[int] = []
        for owner, keys in self.wanted.items():
            holders = [other for other in held if other != owner and conflict(keys, held[other])]
            waiters = [other for other in ahead if conflict(keys, self.wanted[other]) and other not in self.passed]
            assert holders or waiters, f"{owner} waits for nobody"
            assert table.waits_for(owner), f"{owner} waits for nobody"
            ahead.append(owner)
            if owner not in self.local:
                blockers = [int(str(other)) for other in table.waits_for(owner)]
                assert all(other > owner or other in self.local for other in blockers), f"{owner} waits for an older one"


@given(STEPS, st.frozensets(OWNERS, max_size=2))
@settings(max_examples=500, deadline=None)
def test_any_sequence(steps: list[tuple[str, int, Keys]], local: frozenset[int]) -> None:
    model = Model(local)
    for step in steps:
        model.step(*step)
        model.check()
    # When everybody who does not wait lets go, again and again, everybody gets on: no cycle in one table.
    for _ in range(20):
        for owner in list(model.table.owners()):
            if owner not in model.wanted:
                model.granted(model.table.release(owner))  # type: ignore[arg-type]  # owners are numbers here
    if not local:
        assert not model.wanted and not list(model.table.owners())


def test_who_holds_and_who_waits_is_counted_for_people() -> None:
    from tests.participant_core.driver import Machinery

    assert Machinery().core.lock_counts() == (0, 0)
