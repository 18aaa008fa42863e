"""Flawed solutions: a slip in the arithmetic or a misreading of the story at one step, carried on from there."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from tts_engine.verifiers.training.domain import Reduction, Story, step_text

_NUMBER = re.compile(r"\d+")
SLIP_SHARE = 0.6
"""Share of arithmetic slips; the rest are misreadings."""


def slip(rng: random.Random, value: int) -> int:
    """A wrong result that looks like the right one."""
    digits = list(str(value))
    kind = rng.random()
    if kind < 0.35:
        place = int(10 ** rng.randrange(len(digits)))
        return max(0, value + rng.choice((-1, 1)) * place)
    if kind < 0.5:
        return max(0, value + rng.choice((-20, -11, -9, -5, -3, -2, 2, 3, 5, 9, 11, 20)))
    position = rng.randrange(len(digits))
    digits[position] = rng.choice("123456789")
    if kind > 0.8 and len(digits) > 1:
        digits[-1] = rng.choice("0123456789")
    return int("".join(digits))


def misread(rng: random.Random, story: Story, index: int, results: Sequence[int]) -> str:
    """An expression that takes another number, an earlier result or another operation than the story says."""
    right = story.plan[index].rendered(results)
    first, second = _NUMBER.findall(right)
    sign = right[len(first)]
    pool = [*_NUMBER.findall(story.text), *(str(r) for r in results)]
    kind = rng.random()
    if kind < 0.25:
        sign = rng.choice([s for s in "+-*" if s != sign])
    elif kind < 0.5:
        first = rng.choice(pool)
    elif kind < 0.75:
        second = rng.choice(pool)
    elif kind < 0.9:
        second = str(slip(rng, int(second)))
    elif index + 1 < len(story.plan):
        return story.plan[index + 1].rendered([*results, int(first)])
    return f"{first}{sign}{second}"


def flawed_steps(rng: random.Random, story: Story, index: int, slips: float = SLIP_SHARE) -> tuple[str, ...]:
    """The gold solution with a wrong step at `index`; what comes after takes its result as given.

    Args:
        slips: share of arithmetic slips; the rest are misreadings.
    """
    results: list[int] = []
    steps: list[str] = []
    for i, reduction in enumerate(story.plan):
        expression, value = reduction.rendered(results), reduction.value(results)
        if i == index:
            expression, value = _wrong(rng, story, i, results, slips)
        results.append(value)
        steps.append(step_text(i, reduction.label, expression, value, last=i == len(story.plan) - 1))
    return tuple(steps)


def _wrong(rng: random.Random, story: Story, index: int, results: Sequence[int], slips: float) -> tuple[str, int]:
    reduction = story.plan[index]
    right = reduction.value(results)
    while True:
        expression, value = reduction.rendered(results), slip(rng, right)
        if rng.random() > slips:
            expression = misread(rng, story, index, results)
            value = abs(Reduction(expression).value(results))
        if value != right:
            return expression, value
