"""Step labels from Monte Carlo rollouts: hard and soft estimates, Relative Progress Estimation, OmegaPRM's search.

MC of a step is the share of rollouts from the prefix that ends with it which reach the right answer. Comparisons are
made in integers: 0.72 / 0.9 in floats is below 0.8. Sources: GenPRM (2504.00891), Math-Shepherd (2312.08935), OmegaPRM
(2406.06592).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from tts_engine.errors import ConfigError

THRESHOLD = Fraction(4, 5)
"""Published threshold of relative progress."""
SHEPHERD_ROLLOUTS = 8
"""Rollouts a step in Math-Shepherd and OmegaPRM."""


@dataclass(frozen=True, slots=True)
class Count:
    """`right` of `total` rollouts reached the right answer."""

    right: int
    total: int

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not 0 <= self.right <= self.total or self.total < 1:
            raise ValueError(f"{self.right} of {self.total} rollouts is no share")

    @property
    def share(self) -> float:
        return self.right / self.total


def exact_threshold(value: float | str) -> Fraction:
    """The threshold as a person writes it: 0.8 is 4/5, not the nearest float.

    Raises:
        ConfigError: not a number above 0.
    """
    try:
        threshold = Fraction(str(value))
    except ValueError:
        raise ConfigError(f"the threshold {value!r} is not a number; give one such as 0.8") from None
    if threshold <= 0:
        raise ConfigError(f"the threshold {value} must be above 0, such as 0.8")
    return threshold


def rollouts_for(pass1: Count) -> int:
    """K of a problem: 128 where Pass@1 is below 0.1, 64 below 0.9, else 32 ."""
    if 10 * pass1.right < pass1.total:
        return 128
    return 64 if 10 * pass1.right < 9 * pass1.total else 32


def cut(counts: Sequence[Count]) -> tuple[Count, ...]:
    """The counts with everything after the first MC of 0 set to 0: from there on no path is known to be right."""
    end = next((i for i, count in enumerate(counts) if count.right == 0), len(counts))
    return (*counts[:end], *(Count(0, count.total) for count in counts[end:]))


def progresses(before: Count, now: Count, threshold: Fraction = THRESHOLD) -> bool:
    """Whether MC(now) / MC(before) >= threshold; never where one of them is 0."""
    need = threshold.numerator * before.right * now.total
    return before.right > 0 and now.right > 0 and threshold.denominator * now.right * before.total >= need


def rpe_labels(pass1: Count, counts: Sequence[Count], threshold: Fraction = THRESHOLD) -> tuple[bool, ...]:
    """Relative Progress Estimation: a step is good where it keeps the chance of success.

    Args:
        pass1: the policy's Pass@1, MC before the first step.
        counts: MC of each step; that of the last step is the correctness of the answer, 1/1 or 0/1.
    """
    return tuple(progresses(before, now, threshold) for before, now in pairwise((pass1, *cut(counts))))


def hard_labels(counts: Sequence[Count]) -> tuple[bool, ...]:
    """Hard estimation: a step is good where one rollout, of it and of all steps before it, is right."""
    return tuple(count.right > 0 for count in cut(counts))


def soft_labels(counts: Sequence[Count], threshold: Fraction = Fraction(1, 2)) -> tuple[bool, ...]:
    """Soft estimation, made binary: a step is good where its MC is at least the threshold."""
    return tuple(threshold.denominator * c.right >= threshold.numerator * c.total for c in counts)


def binary_search(alive: Callable[[int], bool], steps: int) -> int:
    """OmegaPRM: the first step of a wrong solution whose MC is 0, looked for by halves.

    Args:
        alive: whether MC of a step is above 0; that of the last step is known to be 0 and never asked for.
    """
    low, high = 0, steps - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if alive(middle) else (low, middle)
    return low


def first_bad(labels: Sequence[bool]) -> int | None:
    """Index of the first bad step, None if all are good."""
    return next((i for i, good in enumerate(labels) if not good), None)


def final_counts(right: int, drawn: int, total: int) -> list[float]:
    """Chances of 0..total right ones once all `total` rollouts are drawn: Beta-binomial, Jeffreys' prior."""
    left = total - drawn
    a, b = right + 0.5, drawn - right + 0.5
    rest = [math.exp(_log_choose(left, k) + _log_beta(a + k, b + left - k) - _log_beta(a, b)) for k in range(left + 1)]
    return [0.0] * right + rest + [0.0] * (drawn - right)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
