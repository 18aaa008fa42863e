"""Writes the stories of the domain (domain.py): who owns how many of what, and what happens to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tts_engine.verifiers.training.domain import LEVELS, Reduction, Story, held_out, rng_of

SHE = ("Ann", "Mia", "Eve", "Zoe", "Ida", "Lea")
HE = ("Tom", "Ben", "Max", "Sam", "Leo", "Jim")
ITEMS = ("marbles", "apples", "cards", "coins", "shells", "stamps", "books", "pens", "stickers", "beads")
SIZES = (0.25, 0.35, 0.40)
"""Shares of stories with small, middling and large numbers."""
LARGEST = 4000


@dataclass
class _Teller:
    """The state of a story that is being told."""

    rng: random.Random
    name: str
    she: str
    item: str
    other: str
    size: int
    value: int
    running: str
    sentences: list[str] = field(default_factory=list)
    plan: list[Reduction] = field(default_factory=list)
    closed: str = ""

    def number(self, *ranges: tuple[int, int], most: int = LARGEST) -> int:
        """A number from the range for the story's size, `most` at most."""
        low, high = ranges[self.size]
        return self.rng.randint(min(low, most), min(high, most))

    def say(self, *variants: str, **numbers: int) -> None:
        text = self.rng.choice(variants)
        names = {"name": self.name, "she": self.she, "item": self.item, "other": self.other}
        self.sentences.append(text.format(**names, **numbers))

    def reduce(self, expression: str, label: str, reading: str) -> str:
        """Add a reduction; returns the reference to its result. `{x}` is the running value."""
        self.plan.append(Reduction(expression.replace("{x}", self.running), label, reading))
        return f"#{len(self.plan)}"

    def move(self, running: str, value: int) -> None:
        self.running, self.value = running, value


def _add(t: _Teller) -> None:
    n = t.number((3, 30), (12, 99), (45, 600))
    t.say("{name} buys {n} more.", "{name} finds {n} {item}.", "{other} gives {name} {n} {item}.",
          "Then {name} gets {n} more {item}.", n=n)  # fmt: skip
    t.move(t.reduce(f"{{x}}+{n}", "now", f"{{x}} and {n} more"), t.value + n)


def _take(t: _Teller) -> None:
    n = t.number((2, 30), (11, 99), (45, 600), most=t.value - 1)
    t.say("{name} gives {n} of them to {other}.", "{name} loses {n} {item}.", "{name} sells {n} {item}.",
          "{n} {item} get lost.", n=n)  # fmt: skip
    t.move(t.reduce(f"{{x}}-{n}", "left", f"{{x}} without {n}"), t.value - n)


def _boxes(t: _Teller) -> None:
    n, m = t.number((2, 9), (3, 9), (3, 9)), t.number((3, 10), (12, 49), (12, 99))
    t.say("{name} buys {n} boxes of {m} {item}.", "{other} brings {name} {n} bags with {m} {item} each.",
          "Then {name} gets {n} packs of {m} {item}.", n=n, m=m)  # fmt: skip
    product = t.reduce(f"{n}*{m}", "packed", f"{n} times {m}")
    t.move(t.reduce(f"{{x}}+{product}", "now", "{x} and those packed"), t.value + n * m)


def _crates(t: _Teller) -> None:
    n, m = t.number((10, 12), (11, 15), (11, 19)), t.number((5, 12), (11, 19), (11, 29))
    t.say("{name} buys {n} crates of {m} {item}.", "A truck brings {name} {n} crates with {m} {item} each.", n=n, m=m)
    product = t.reduce(f"{n}*{m}", "crates", f"{n} times {m}")
    t.move(t.reduce(f"{{x}}+{product}", "now", "{x} and the crates"), t.value + n * m)


def _friends(t: _Teller) -> None:
    n = t.rng.randint(2, 9)
    m = t.number((2, 10), (6, 49), (12, 99), most=(t.value - 1) // n)
    t.say("{name} gives {m} {item} to each of {n} friends.", "{n} friends get {m} {item} each from {name}.", n=n, m=m)
    product = t.reduce(f"{n}*{m}", "gifts", f"{n} friends times {m}")
    t.move(t.reduce(f"{{x}}-{product}", "left", "{x} without the gifts"), t.value - n * m)


def _multiply(t: _Teller) -> None:
    k, word = t.rng.choice(((2, "doubles"), (3, "triples"), (4, "makes four times as many of")))
    t.say("{other} " + word + " the {item} of {name}.", "A magician " + word + " them.")
    t.move(t.reduce(f"{{x}}*{k}", "now", f"{{x}} times {k}"), t.value * k)


def _half(t: _Teller) -> None:
    t.say("{name} gives half of them to {other}.", "Half of the {item} get lost.", "{name} sells half of the {item}.")
    t.move(t.reduce("{x}/2", "left", "half of {x}"), t.value // 2)


def _share(t: _Teller) -> None:
    k = t.rng.choice([k for k in range(3, 10) if t.value % k == 0])
    t.say("{name} shares them equally among {k} people, {she} being one of them.",
          "{name} puts them into {k} equal heaps and keeps one heap.", k=k)  # fmt: skip
    t.move(t.reduce(f"{{x}}/{k}", "each", f"{{x}} in {k} parts"), t.value // k)


def _broken(t: _Teller) -> None:
    n = t.number((8, 30), (25, 99), (60, 600))
    k = t.number((2, 20), (11, 60), (25, 300), most=n - 2)
    t.say("{name} finds {n} {item} but {k} of them are broken.", "{name} buys {n} {item}, of which {k} are bad.",
          n=n, k=k)  # fmt: skip
    whole = t.reduce(f"{n}-{k}", "good", f"{n} without {k}")
    t.move(t.reduce(f"{{x}}+{whole}", "now", "{x} and the good"), t.value + n - k)


def _times_as_many(t: _Teller) -> None:
    k = t.rng.randint(2, 5)
    t.say("{other} has {k} times as many as {name} and gives {name} all of them.", k=k)
    theirs = t.reduce(f"{{x}}*{k}", "other", f"{k} times {{x}}")
    t.move(t.reduce(f"{{x}}+{theirs}", "together", "{x} and the other"), t.value * (k + 1))


def _more_than(t: _Teller) -> None:
    sign, word = t.rng.choice((("+", "more"), ("-", "fewer")))
    n = t.number((2, 20), (11, 89), (45, 600), most=t.value - 1)
    t.say("{other} has {n} " + word + " than {name} and gives {name} all of them.", n=n)
    theirs = t.reduce(f"{{x}}{sign}{n}", "other", f"{{x}} {'and' if sign == '+' else 'without'} {n}")
    t.move(t.reduce(f"{{x}}+{theirs}", "together", "{x} and the other"), t.value * 2 + (n if sign == "+" else -n))


def _price(t: _Teller) -> None:
    p = t.number((2, 5), (3, 9), (3, 12))
    t.say("{name} sells all of them for {p} dollars each.", "Each of them is worth {p} dollars.", p=p)
    t.closed = "How many dollars is that?"
    t.move(t.reduce(f"{{x}}*{p}", "worth", f"{{x}} times {p}"), t.value * p)


def _distract(t: _Teller) -> None:
    n = t.number((2, 30), (12, 99), (45, 600))
    t.say("{other} has {n} {item} too.", "A friend of {name} is {n} years old.", "{other} keeps {n} {item} at home.",
          "The shop sells {n} kinds of {item}.", n=n)  # fmt: skip


Event = Callable[[_Teller], None]
_EVENTS: tuple[tuple[Event, int, float], ...] = (
    (_add, 1, 3.0),
    (_take, 1, 4.0),
    (_half, 1, 1.0),
    (_multiply, 1, 1.5),
    (_share, 1, 1.0),
    (_boxes, 2, 3.0),
    (_crates, 2, 1.5),
    (_friends, 2, 2.0),
    (_broken, 2, 2.0),
    (_times_as_many, 2, 1.5),
    (_more_than, 2, 2.0),
    (_price, 1, 1.0),
)
"""What can happen, how many reductions it takes, and how often it is picked."""


def _possible(t: _Teller, event: Event, length: int, left: int) -> bool:
    if length > left:
        return False
    if event is _price:
        return left == 1 and t.value <= LARGEST // 12
    if event is _half:
        return t.value % 2 == 0
    if event is _share:
        return any(t.value % k == 0 for k in range(3, 10))
    if event in (_multiply, _times_as_many):
        return t.value <= LARGEST // 6
    return t.value >= 20 if event is _friends else t.value > 5


def _tell(rng: random.Random, level: int) -> Story:
    girl = rng.random() < 0.5
    name, other = rng.choice(SHE if girl else HE), rng.choice(HE if girl else SHE)
    size = rng.choices((0, 1, 2), SIZES)[0]
    start = rng.randint(*((5, 40), (21, 99), (80, 900))[size])
    t = _Teller(rng, name, "she" if girl else "he", rng.choice(ITEMS), other, size, start, str(start))
    t.say("{name} has {n} {item}.", "{name} starts with {n} {item}.", "There are {n} {item} in the bag of {name}.",
          n=start)  # fmt: skip
    while len(t.plan) < level + 1:
        if rng.random() < 0.12:
            _distract(t)
        left = level + 1 - len(t.plan)
        choices = [(e, w) for e, length, w in _EVENTS if _possible(t, e, length, left)]
        event = rng.choices([e for e, _ in choices], [w for _, w in choices])[0]
        event(t)
    questions = ("How many {item} does {name} have now?", "How many {item} has {name} in the end?")
    question = t.closed or rng.choice(questions)
    t.sentences.append(question.format(item=t.item, name=t.name))
    return Story(text=" ".join(t.sentences), plan=tuple(t.plan), level=level)


def generate(seed: int, level: int, *path: int | str, held: bool = False) -> Story:
    """A story of the level from the seed, from the held-out tenth of all texts or from the rest.

    Args:
        level: 1 to 5; the story takes one reduction more.
        path: further parts of the random key.
        held: whether the story shall belong to the held-out part (domain.held_out).
    """
    if level not in LEVELS:
        raise ValueError(f"level {level} is not one of {LEVELS}")
    rng = rng_of(seed, "story", level, *path)
    while True:
        story = _tell(rng, level)
        if held_out(story.text) == held and max(story.results) <= LARGEST and min(story.results) >= 1:
            return story
