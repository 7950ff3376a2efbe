"""Several lock tables that know nothing of each other, a coordinator on paper, any interleaving: no cycle, and all get on.

What is checked after every step is the waits-for graph of all tables together, over the transactions that are not ended. An
ending that is still on its way to a participant leaves edges there for as long as it travels; those do not count.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from participant_sdk.core.locks import Answer, LockTable, Rank
from participant_sdk.core.work import Keys

TABLES = 3
SEQUENCE = "c1.1.aa"


@dataclass
class Txn:
    """One transaction, as its coordinator sees it."""

    name: str
    age: int
    keys: dict[int, Keys]
    """What it asks for where; an interactive one asks key by key, in any order."""
    interactive: bool
    order: int = 0
    eldest: int = 0
    late: bool = False
    """Whether its one Prepare was sent some time after it had begun."""
    asked: set[int] = field(default_factory=set)
    granted: set[int] = field(default_factory=set)
    over: bool = False

    @property
    def done(self) -> bool:
        """Whether it has all its locks."""
        return self.granted == set(self.keys)


@dataclass
class Message:
    """What the coordinator sends to one participant."""

    kind: str
    txn: Txn


class Town:
    """The coordinator, the participants' tables, and the streams to them."""

    def __init__(self) -> None:
        self.tables = [LockTable(99) for _ in range(TABLES)]
        self.streams: list[deque[Message]] = [deque() for _ in range(TABLES)]
        self.last_order = [0] * TABLES
        self.txns: list[Txn] = []
        self.held_back: list[Txn] = []
        self.by_name: dict[str, Txn] = {}
        self.died = 0

    # ---- beginning

    def one_shot(self, age: int, keys: dict[int, Keys], late: bool) -> None:
        """A one-shot begins: its Prepares go out at once, that of a single branch perhaps later."""
        txn = Txn(f"o{len(self.txns)}", age, keys, False, order=len(self.txns) + 1, late=late and len(keys) == 1)
        self._add(txn)
        txn.eldest = min(one.age for one in self.txns if not one.interactive and not one.over)
        if txn.late:
            self.held_back.append(txn)
        else:
            self._send("prepare", txn)

    def let_go(self) -> None:
        """A record is durable: the Prepare that waited for it is sent."""
        if self.held_back:
            self._send("prepare", self.held_back.pop(0))

    def interactive(self, age: int, keys: dict[int, Keys]) -> None:
        """An interactive transaction begins; it asks later."""
        self._add(Txn(f"i{len(self.txns)}", age, keys, True))

    def _add(self, txn: Txn) -> None:
        self.txns.append(txn)
        self.by_name[txn.name] = txn

    def _send(self, kind: str, txn: Txn) -> None:
        for place in txn.keys:
            self.streams[place].append(Message(kind, txn))

    # ---- going on

    def ask(self, txn: Txn, place: int) -> None:
        """An interactive transaction asks for its keys at one participant; several calls may be under way."""
        if txn.over or not txn.interactive or place not in txn.keys or place in txn.asked:
            return
        txn.asked.add(place)
        age = (txn.age, txn.name)
        self._answered(txn, place, self.tables[place].request(txn.name, Rank(age, age), txn.keys[place]))

    def find(self, txn: Txn, place: int, keys: Keys) -> None:
        """Work that runs at a participant finds that it needs more keys."""
        if txn.over or place not in txn.granted:
            return
        table = self.tables[place]
        txn.keys[place] = txn.keys[place].joined(keys)
        if txn.interactive:
            age = (txn.age, txn.name)
            self._more(txn, place, table.request(txn.name, Rank(age, age), keys))
        elif len(txn.keys) == 1:
            self._granted(place, table.release(txn.name))
            self._more(txn, place, table.request(txn.name, self._rank(txn, place), txn.keys[place]))
        elif not table.take_if_free(txn.name, keys):
            self.end(txn)

    def _more(self, txn: Txn, place: int, answer: Answer) -> None:
        txn.granted.discard(place)
        self._answered(txn, place, answer)

    def deliver(self, place: int) -> None:
        """The next message arrives at a participant."""
        if not self.streams[place]:
            return
        message = self.streams[place].popleft()
        txn, table = message.txn, self.tables[place]
        if message.kind == "ending":
            self._granted(place, [*table.withdraw(txn.name), *table.release(txn.name)])
        elif message.kind == "finishing":
            table.finishing(txn.name)
        elif not txn.over:
            self._answered(txn, place, table.request(txn.name, self._rank(txn, place), txn.keys[place]))

    def overtake(self, place: int) -> None:
        """A Prepare is lost, and comes again behind the others."""
        stream = self.streams[place]
        first = next((message for message in stream if message.kind == "prepare"), None)
        if first is not None and not any(message.txn is first.txn and message is not first for message in stream):
            stream.remove(first)
            stream.append(first)

    def _rank(self, txn: Txn, place: int) -> Rank:
        sequence = SEQUENCE
        if len(txn.keys) > 1:
            if txn.order <= self.last_order[place]:
                sequence = ""
            else:
                self.last_order[place] = txn.order
        age = (txn.age, txn.name)
        return Rank(age, min((txn.eldest, ""), age), sequence, alone=len(txn.keys) == 1)

    def _answered(self, txn: Txn, place: int, answer: Answer) -> None:
        if answer is Answer.GRANTED:
            txn.granted.add(place)
        elif answer is Answer.DIES:
            self.died += 1
            self.end(txn)

    def _granted(self, place: int, names: list[object]) -> None:
        for name in names:
            self.by_name[str(name)].granted.add(place)

    def end(self, txn: Txn) -> None:
        """Decide: what has all its locks commits, anything else aborts; either way the ending goes to everybody."""
        if txn.over or txn in self.held_back:
            return
        txn.over = True
        if txn.interactive and txn.done:
            self._send("finishing", txn)
        self._send("ending", txn)

    # ---- looking

    def check(self) -> None:
        """No cycle among those that are not over."""
        edges: dict[str, set[str]] = {}
        for table in self.tables:
            for owner in table.in_line():
                edges.setdefault(str(owner), set()).update(map(str, table.waits_for(owner)))
        alive = {txn.name for txn in self.txns if not txn.over}
        while leaves := {name for name in alive if not edges.get(name, set()) & alive}:
            alive -= leaves
        assert not alive, {name: edges[name] & alive for name in alive}

    def finish(self) -> None:
        """All messages arrive; whoever has all its locks commits; whoever asks dies or gets on: in the end nobody is left."""
        for _ in range(4 * len(self.txns) + 8):
            while self.held_back:
                self.let_go()
            for place in range(TABLES):
                while self.streams[place]:
                    self.deliver(place)
            for txn in self.txns:
                for place in txn.keys:
                    self.ask(txn, place)
                if txn.done:
                    self.end(txn)
            self.check()
        assert all(txn.over for txn in self.txns), [txn.name for txn in self.txns if not txn.over]
        assert not any(table.waiting() or list(table.owners()) for table in self.tables)


KEYS = st.builds(
    lambda exclusive, shared: Keys(tuple(exclusive), tuple(set(shared) - set(exclusive))),
    st.lists(st.sampled_from("xy"), max_size=2, unique=True),
    st.lists(st.sampled_from("xy"), max_size=1),
)
WORK = st.dictionaries(st.integers(0, TABLES - 1), KEYS, min_size=1, max_size=TABLES)
AGE = st.integers(1, 9)
PLACE = st.integers(0, TABLES - 1)
STEP = st.one_of(
    st.tuples(st.just("one_shot"), AGE, WORK, st.booleans()),
    st.tuples(st.just("interactive"), AGE, WORK),
    st.tuples(st.just("ask"), st.integers(0, 9), PLACE),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("deliver"), PLACE),
    st.tuples(st.just("overtake"), PLACE),
    st.tuples(st.just("let_go")),
)


@given(st.lists(STEP, max_size=60))
@settings(max_examples=1500, deadline=None)
def test_no_cycle_and_everybody_gets_on(steps: list[tuple[object, ...]]) -> None:
    town = Town()
    for what, *arguments in steps:
        if what in ("ask", "end"):
            if not town.txns:
                continue
            arguments[0] = town.txns[int(str(arguments[0])) % len(town.txns)]
        getattr(town, str(what))(*arguments)
        town.check()
    town.finish()


def test_one_shots_alone_never_die() -> None:
    town = Town()
    for number in range(30):
        town.one_shot(30 - number, {place: Keys(("x",)) for place in range(number % TABLES + 1)}, False)
    town.finish()
    assert town.died == 0


def test_who_is_nowhere_else_and_comes_late_closes_no_cycle() -> None:
    x, y = Keys(("x",)), Keys(("y",))
    town = Town()
    town.one_shot(5, {0: Keys(("x", "y"))}, True)
    town.one_shot(1, {0: x, 1: x}, False)  # younger in order, older in age: a retry
    town.interactive(3, {0: y, 1: x})
    late, one, two = town.txns
    town.ask(two, 1)
    for place in (0, 1):
        town.deliver(place)
    town.let_go()
    town.deliver(0)
    assert town.tables[1].waits(one.name) and town.tables[0].waits(late.name), "for `two` by age; for `one` in its order"
    town.ask(two, 0)
    assert two.over, "older than the late one, and all that it answers for, but behind it stands one that waits for this one"
    town.finish()


def test_who_is_nowhere_else_lets_go_before_it_waits() -> None:
    x, y = Keys(("x",)), Keys(("y",))
    town = Town()
    town.interactive(5, {0: y})
    town.one_shot(1, {0: x}, False)
    two, one = town.txns
    town.ask(two, 0)
    town.deliver(0)
    town.find(one, 0, y)
    assert town.tables[0].waits(one.name)
    town.find(two, 0, x)
    assert not town.tables[0].waits(two.name), "nobody has it"
    town.check()
    town.finish()


def test_plain_wait_die_would_close_a_cycle_here() -> None:
    x, y, z = Keys(("x",)), Keys(("y",)), Keys(("z",))
    town = Town()
    town.interactive(5, {0: x, 1: y})
    town.one_shot(1, {0: x, 2: z}, False)  # older: it waits for the interactive one at 0
    town.one_shot(9, {2: z, 1: y}, False)  # younger: it waits for the older one at 2, and holds y at 1
    old, young = town.txns[1], town.txns[2]
    town.ask(town.txns[0], 0)
    for place in (0, 2, 2, 1):
        town.deliver(place)
    assert town.tables[0].waits(old.name) and town.tables[2].waits(young.name)
    town.ask(town.txns[0], 1)
    assert town.txns[0].over, "older than who holds y, but not than whom that one waits for: it dies"
    town.finish()


def a_crowd(seed: int) -> None:
    """A few transactions on two keys, in any order: many more of them in a second than hypothesis makes."""
    roll, town = random.Random(seed), Town()

    def keys() -> Keys:
        alone = roll.sample("xy", roll.choice((1, 1, 2)))
        return Keys(tuple(alone)) if roll.random() < 0.8 else Keys((), tuple(alone))

    for _ in range(30):
        what = roll.choice(("one_shot", "interactive", "ask", "ask", "deliver", "deliver", "let_go", "end", "find"))
        if what in ("one_shot", "interactive") and len(town.txns) < 7:
            work = {place: keys() for place in roll.sample(range(2), roll.choice((1, 2)))}
            if what == "one_shot":
                town.one_shot(roll.randint(1, 9), work, roll.random() < 0.7)
            else:
                town.interactive(roll.randint(1, 9), work)
        elif what == "ask" and town.txns:
            town.ask(roll.choice(town.txns), roll.randrange(2))
        elif what == "find" and town.txns:
            town.find(roll.choice(town.txns), roll.randrange(2), keys())
        elif what == "deliver":
            town.deliver(roll.randrange(2))
        elif what == "let_go":
            town.let_go()
        elif what == "end" and town.txns and roll.random() < 0.3:
            town.end(roll.choice(town.txns))
        town.check()
    town.finish()


def test_no_cycle_in_any_crowd() -> None:
    for seed in range(2000):
        a_crowd(seed)
