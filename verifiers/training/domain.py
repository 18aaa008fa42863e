"""The procedural maths domain of the embedded models: problems, gold solutions, and the exact checker of a step.

A problem is a short story about a number of things; its plan is a list of reductions, each one arithmetic operation on
numbers of the text and results of earlier reductions (`#1` is the result of the first). A solution states the results
in that order, one a step, and boxes the last one.
"""

from __future__ import annotations

import hashlib
import operator
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tts_engine.formats import policy

LEVELS = (1, 2, 3, 4, 5)
"""A problem of level L has L+1 reductions."""

HELD_OUT_SHARE = 10
"""One problem text in so many is held out."""

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
_EXPRESSION = re.compile(r"(#?)(\d+)([-+*/])(#?)(\d+)")
_VALUE = re.compile(r"=(?:\\boxed\{)?(\d+)")
_BOXED = re.compile(r"\\boxed\{(\d+)\}")
_EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=")


@dataclass(frozen=True, slots=True)
class Reduction:
    """One arithmetic operation.

    Attributes:
        expression: such as `73+84` or `#1*4`, where `#1` stands for the result of the first reduction.
        label: the word that a solution puts before it.
        reading: what the story says, for a verifier's analysis; `{x}` stands for the running value.
    """

    expression: str
    label: str = ""
    reading: str = ""

    def rendered(self, results: Sequence[int]) -> str:
        """The expression with the results of earlier steps put in."""
        left_ref, left, sign, right_ref, right = self._parts()
        return f"{_operand(left_ref, left, results)}{sign}{_operand(right_ref, right, results)}"

    def value(self, results: Sequence[int]) -> int:
        """What it comes to; a quotient is rounded down (gold plans divide evenly) and x/0 is 0."""
        left_ref, left, sign, right_ref, right = self._parts()
        a, b = _operand(left_ref, left, results), _operand(right_ref, right, results)
        return 0 if sign == "/" and b == 0 else _OPERATIONS[sign](a, b)

    def _parts(self) -> tuple[str, str, str, str, str]:
        match = _EXPRESSION.fullmatch(self.expression)
        if match is None:
            raise ValueError(f"{self.expression!r} is not an arithmetic operation on two numbers")
        left_ref, left, sign, right_ref, right = match.groups()
        return left_ref, left, sign, right_ref, right


def _operand(ref: str, digits: str, results: Sequence[int]) -> int:
    return results[int(digits) - 1] if ref else int(digits)


@dataclass(frozen=True, slots=True)
class Story:
    """A problem of the domain: its text and how it is solved."""

    text: str
    plan: tuple[Reduction, ...]
    level: int

    @property
    def id(self) -> str:
        """Depends on the text alone."""
        return f"arith-{self.level}-{hashlib.blake2b(self.text.encode(), digest_size=5).hexdigest()}"

    @property
    def results(self) -> tuple[int, ...]:
        """The right result of each reduction."""
        results: list[int] = []
        for reduction in self.plan:
            results.append(reduction.value(results))
        return tuple(results)

    @property
    def answer(self) -> str:
        return str(self.results[-1])


def held_out(text: str) -> bool:
    """Whether a problem text belongs to the held-out tenth, which no training data may contain."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % HELD_OUT_SHARE == 0


def step_text(index: int, label: str, expression: str, value: int, last: bool) -> str:
    """A solution step as the policy writes it, e.g. `Step 2: now 73+48=121.`"""
    shown = f"\\boxed{{{value}}}" if last else str(value)
    return f"{policy.heading(index)}{label + ' ' if label else ''}{expression}={shown}."


def gold_steps(story: Story) -> tuple[str, ...]:
    """The right solution."""
    results = story.results
    return tuple(
        step_text(i, r.label, r.rendered(results), results[i], last=i == len(story.plan) - 1)
        for i, r in enumerate(story.plan)
    )


def stated_value(step: str) -> int | None:
    """The number a step comes to: the boxed one, else the one after its last `=`; None if it states none."""
    found = _BOXED.findall(step) or _VALUE.findall(step)
    return int(found[-1]) if found else None


def stated_equation(step: str) -> tuple[int, str, int] | None:
    """The operation a step says it does (None if it does none)."""
    match = _EQUATION.search(step)
    return (int(match.group(1)), match.group(2), int(match.group(3))) if match else None


def expected(story: Story, previous: Sequence[str], boxed: bool) -> tuple[str, int]:
    """What the step after `previous` has to come to: an expression over stated values, and its value.

    A step that boxes its result too early is held against the next reduction as well, and one beyond the end of the
    plan against the last result.
    """
    results = [stated_value(step) or 0 for step in previous]
    index = len(previous)
    if index >= len(story.plan):
        return str(results[-1]), results[-1]
    reduction = story.plan[index]
    expression, value = reduction.rendered(results), reduction.value(results)
    if boxed and index + 1 < len(story.plan):
        follow = story.plan[index + 1]
        value = follow.value([*results, value])
        inner = follow.expression.replace(f"#{index + 1}", f"({expression})")
        expression = _REF.sub(lambda m: str(results[int(m.group(1)) - 1]), inner)
    return expression, value


_REF = re.compile(r"#(\d+)")


def check_step(story: Story, previous: Sequence[str], step: str) -> bool:
    """Whether the value a step states follows from the problem and from the values that earlier steps stated.

    The equation it writes must be true and its result the one the plan needs next; the box belongs on the last step.
    """
    value = stated_value(step)
    return value is not None and value == expected(story, previous, "\\boxed" in step)[1]


def first_error(story: Story, steps: Sequence[str]) -> int | None:
    """Index of the first wrong step, None if all are right."""
    return next((i for i, step in enumerate(steps) if not check_step(story, steps[:i], step)), None)


def from_plan(text: str, expressions: Sequence[str]) -> Story:
    """A story from what a problem set stores: its text and the expressions of its plan."""
    return Story(text=text, plan=tuple(Reduction(e) for e in expressions), level=max(1, len(expressions) - 1))


def rng_of(seed: int, *path: int | str) -> random.Random:
    """A generator that depends on the seed and the path alone."""
    from tts_engine.types import Key

    return random.Random(Key(seed, path).int())
