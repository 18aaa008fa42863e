"""Which rollouts a label needs: plans that ask for draws until it is decided. No model is seen here.

A plan is a generator. It asks for the first n draws of some steps (`{step: n}`, 0-based; the prefix ends with it), is
sent them (`{step: outcomes}`) and returns a count for each step it looked at. Draws are nested: the first 16 of a
prefix are the same whoever asks. The last step is never drawn: its MC is the correctness of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from tts_engine.verifiers.training.rpe import THRESHOLD, Count, final_counts, progresses

Wanted = Mapping[int, int]
Drawn = Mapping[int, Sequence[bool]]
Counts = tuple[Count | None, ...]
"""MC before the first step, then that of each step; None where a plan did not look."""
Plan = Generator[Wanted, Drawn, Counts]
Stop = Literal["never", "zero", "rpe", "right", "halves"]
ROOT = -1
"""The step that the bare problem counts as."""
CHUNK = 4
"""Draws at a time while a label is undecided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A solution to be labelled.

    Attributes:
        steps: how many it has.
        correct: whether its answer is right.
        pass1: the policy's Pass@1 on the problem.
        k: rollouts a step at most.
        root: whether MC before the first step is drawn like that of a step; else it is `pass1`.
    """

    steps: int
    correct: bool
    pass1: Count
    k: int
    root: bool = False

    def at(self, step: int, count: Count | None) -> _Seen:
        """What is known of a prefix that has this count; its step is -1 for the bare problem."""
        if step == self.steps - 1:
            return _Seen(int(self.correct), 1, 1)
        if step == ROOT and not self.root:
            return _Seen(self.pass1.right, self.pass1.total, self.pass1.total)
        return _Seen(count.right, count.total, self.k) if count else _Seen(0, 0, self.k)


def all_draws(case: Case, cut: bool = True) -> Plan:
    """K draws of every step, up to the first one whose MC is 0 if `cut`: what is published."""
    root = _count((yield {ROOT: case.k})[ROOT]) if case.root else case.pass1
    counts: list[Count] = [root]
    for step in range(case.steps - 1):
        counts.append(_count((yield {step: case.k})[step]))
        if cut and counts[-1].right == 0:
            return _padded(counts, case)
    return (*counts, Count(int(case.correct), 1))


def until_right(case: Case, chunk: int = CHUNK) -> Plan:
    """Draws of every step until one is right, up to the first step with none: decides hard labels."""
    counts: list[Count] = [case.pass1]
    for step in range(case.steps - 1):
        counts.append((yield from _first_right(step, case.k, chunk)))
        if counts[-1].right == 0:
            return _padded(counts, case)
    return (*counts, Count(int(case.correct), 1))


def by_halves(case: Case, chunk: int = CHUNK) -> Plan:
    """OmegaPRM's binary search for the first step without a right rollout; nothing where the answer is right."""
    counts: dict[int, Count] = {case.steps - 1: Count(int(case.correct), 1), ROOT: case.pass1}
    low, high = 0, 0 if case.correct else case.steps - 1
    while low < high:
        middle = (low + high) // 2
        counts[middle] = yield from _first_right(middle, case.k, chunk)
        low, high = (middle + 1, high) if counts[middle].right else (low, middle)
    return tuple(counts.get(step) for step in range(ROOT, case.steps))


def until_decided(case: Case, threshold: Fraction = THRESHOLD, doubt: float = 0.02, chunk: int = CHUNK) -> Plan:
    """Draws until each label of relative progress is decided, up to the first bad step.

    A label is decided where the chance that all K draws of the step and of the one before would change it is below
    `doubt`; of the two, the one with fewer draws gets the next chunk, so at K draws of both the label is the full one.
    """
    seen = {ROOT: case.at(ROOT, None)}
    for step in range(case.steps):
        seen[step] = case.at(step, None)
        while doubt <= chance_of_good(seen[step - 1], seen[step], threshold) <= 1 - doubt:
            poorer = min((i for i in (step - 1, step) if not seen[i].full), key=lambda i: (seen[i].drawn, -i))
            wanted = min(seen[poorer].drawn + chunk, case.k)
            drawn = (yield {poorer: wanted})[poorer]
            seen[poorer] = _Seen(sum(drawn[:wanted]), wanted, case.k)
        if chance_of_good(seen[step - 1], seen[step], threshold) < 0.5:
            break
    return _padded([Count(s.right, s.drawn) if s.drawn else None for s in seen.values()], case)


def decided_labels(case: Case, counts: Counts, threshold: Fraction = THRESHOLD) -> tuple[bool, ...]:
    """Relative-progress labels up to the first bad step, from the counts of a plan.

    A label whose prefixes were not drawn to the end (`until_decided` stops early) takes the likelier side.
    """
    labels: list[bool] = []
    for step in range(case.steps):
        before, now = case.at(step - 1, counts[step]), case.at(step, counts[step + 1])
        labels.append(chance_of_good(before, now, threshold) >= 0.5)
        if not labels[-1]:
            break
    return tuple(labels)


@dataclass(frozen=True, slots=True)
class _Seen:
    """`right` of the `drawn` first of `total` rollouts."""

    right: int
    drawn: int
    total: int

    @property
    def full(self) -> bool:
        return self.drawn == self.total


@lru_cache(maxsize=200_000)
def chance_of_good(before: _Seen, now: _Seen, threshold: Fraction = THRESHOLD) -> float:
    """Chance that the label is good once all rollouts of both prefixes are drawn; 0 or 1 where they are."""
    if before.full and now.full:
        return float(progresses(Count(before.right, before.total), Count(now.right, now.total), threshold))
    tail = _tail(now)
    chances = final_counts(before.right, before.drawn, before.total)
    need = [
        -(-threshold.numerator * i * now.total // (threshold.denominator * before.total)) for i in range(len(chances))
    ]
    return sum(
        p * tail[max(n, 1)] for p, n, i in zip(chances, need, range(len(need)), strict=True) if i and n < len(tail)
    )


@lru_cache(maxsize=50_000)
def _tail(seen: _Seen) -> tuple[float, ...]:
    """Chance of at least 0..total right ones in the end."""
    chances = final_counts(seen.right, seen.drawn, seen.total)
    return tuple(min(1.0, total) for total in reversed(list(accumulate(reversed(chances)))))


def replay(plan: Plan, draws: Callable[[int, int], Sequence[bool]]) -> tuple[Counts, dict[int, int]]:
    """Run a plan on recorded draws; returns its counts and how many draws of each step it took."""
    taken: dict[int, int] = {}
    try:
        wanted = next(plan)
        while True:
            taken |= {step: max(n, taken.get(step, 0)) for step, n in wanted.items()}
            wanted = plan.send({step: draws(step, n) for step, n in wanted.items()})
    except StopIteration as stop:
        return stop.value, taken


def _first_right(step: int, k: int, chunk: int) -> Generator[Wanted, Drawn, Count]:
    wanted = 0
    while True:
        wanted = min(wanted + chunk, k)
        count = _count((yield {step: wanted})[step])
        if count.right or wanted == k:
            return count


def _count(drawn: Sequence[bool]) -> Count:
    return Count(sum(drawn), len(drawn))


def _padded(counts: Sequence[Count | None], case: Case) -> Counts:
    return (*counts, *([None] * (case.steps + 1 - len(counts))))
