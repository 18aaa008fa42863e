"""Plans of rollouts: what they ask for, and that stopping early hardly changes a label."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest

from tts_engine.verifiers.training.plans import (
    ROOT,
    Case,
    all_draws,
    by_halves,
    decided_labels,
    replay,
    until_decided,
    until_right,
)
from tts_engine.verifiers.training.rpe import Count, first_bad, hard_labels, rpe_labels

CASE = Case(steps=4, correct=False, pass1=Count(4, 8), k=64)


class Stream:
    """Recorded draws of each step with given chances of success."""

    def __init__(self, chances: dict[int, float], seed: int = 0) -> None:
        rng = random.Random(seed)
        self.draws = {step: [rng.random() < p for _ in range(128)] for step, p in chances.items()}

    def __call__(self, step: int, n: int) -> Sequence[bool]:
        return self.draws[step][:n]

    def count(self, step: int, k: int) -> Count:
        return Count(sum(self.draws[step][:k]), k)


def test_all_draws_stop_at_the_first_zero_or_not_at_all() -> None:
    stream = Stream({0: 0.5, 1: 0.0, 2: 0.0})
    counts, taken = replay(all_draws(CASE), stream)
    assert counts == (CASE.pass1, stream.count(0, 64), Count(0, 64), None, None)
    assert taken == {0: 64, 1: 64}
    counts, taken = replay(all_draws(CASE, cut=False), stream)
    assert counts[-1] == Count(0, 1)
    assert taken == {0: 64, 1: 64, 2: 64}


def test_the_bare_problem_is_drawn_where_that_is_asked() -> None:
    stream = Stream({ROOT: 0.9, 0: 0.9, 1: 0.9, 2: 0.9})
    counts, taken = replay(all_draws(replace(CASE, root=True)), stream)
    assert counts[0] == stream.count(ROOT, 64)
    assert taken[ROOT] == 64
    _, early = replay(until_decided(replace(CASE, root=True)), stream)
    assert 0 < early[ROOT] < 64


def test_hard_labels_need_one_right_rollout() -> None:
    stream = Stream({0: 0.5, 1: 0.2, 2: 0.0})
    counts, taken = replay(until_right(CASE), stream)
    full, _ = replay(all_draws(CASE), stream)
    assert [c is not None and c.right > 0 for c in counts] == [c is not None and c.right > 0 for c in full]
    assert taken[0] < 64
    assert taken[2] == 64


def test_halves_find_the_first_dead_step_with_fewer_prefixes() -> None:
    case = Case(steps=9, correct=False, pass1=Count(4, 8), k=8)
    for error in range(9):
        stream = Stream({step: float(step < error) for step in range(8)})
        counts, taken = replay(by_halves(case), stream)
        alive = [c is None or c.right > 0 for c in counts[1:]]
        dead = [step for step, c in enumerate(counts[1:]) if c is not None and not c.right]
        assert min(dead) == error
        assert all(alive[:error])
        assert len(taken) <= 4
    assert replay(by_halves(replace(case, correct=True)), stream)[1] == {}


def full_labels(case: Case, stream: Stream, threshold: Fraction) -> tuple[bool, ...]:
    before = stream.count(ROOT, case.k) if case.root else case.pass1
    counts = [stream.count(step, case.k) for step in range(case.steps - 1)]
    return rpe_labels(before, [*counts, Count(int(case.correct), 1)], threshold)


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("threshold", [Fraction(1, 2), Fraction(4, 5), Fraction(1)])
def test_without_doubt_the_first_bad_step_is_that_of_all_draws(threshold: Fraction, root: bool) -> None:
    rng = random.Random(3)
    for seed in range(25):
        chances = {step: rng.choice((0.0, 0.1, 0.4, 0.5, 0.9, 1.0)) for step in range(ROOT, 4)}
        case = Case(steps=5, correct=rng.random() < 0.5, pass1=Count(rng.randint(1, 7), 8), k=32, root=root)
        stream = Stream(chances, seed)
        counts, taken = replay(until_decided(case, threshold, doubt=1e-12), stream)
        full = full_labels(case, stream, threshold)
        assert first_bad(decided_labels(case, counts, threshold)) == first_bad(full)
        assert max(taken.values(), default=0) <= 32


def test_clear_cases_are_decided_with_a_fraction_of_the_draws_and_the_same_labels() -> None:
    rng = random.Random(5)
    same = drawn = whole = 0
    for seed in range(200):
        error = rng.randint(0, 4)
        chances = {step: 0.8 if step < error else 0.0 for step in range(ROOT, 4)}
        case = Case(steps=5, correct=False, pass1=Count(5, 8), k=64)
        stream = Stream(chances, seed)
        counts, taken = replay(until_decided(case), stream)
        labels = decided_labels(case, counts)
        same += first_bad(labels) == first_bad(full_labels(case, stream, Fraction(4, 5)))
        drawn += sum(taken.values())
        whole += sum(replay(all_draws(case), stream)[1].values())
    assert same >= 194  # 97 %
    assert drawn < whole / 2


def test_labels_end_with_the_first_bad_step() -> None:
    counts = (CASE.pass1, Count(32, 64), Count(0, 64), None, None)
    assert decided_labels(CASE, counts) == (True, False)
    assert hard_labels([Count(32, 64), Count(0, 64), Count(5, 64)]) == (True, False, False)
