"""Intervals against published values, closed forms and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.report.intervals import paired_bootstrap, pass_at_k, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_its_equation(case: tuple[int, int]) -> None:
    successes, trials = case
    interval = wilson(successes, trials)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    mirrored = wilson(trials - successes, trials)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high))
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            z = abs(interval.value - bound) / math.sqrt(bound * (1 - bound) / trials)
            assert z == pytest.approx(1.959964, abs=1e-4)


def test_wilson_without_trials_is_refused() -> None:
    for successes, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, trials)


def test_bootstrap_of_a_large_sample_is_the_normal_interval() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0.3, 1.0, 2000), random.normal(0.0, 1.0, 2000)
    interval = paired_bootstrap(first.tolist(), second.tolist())
    difference = first - second
    half = 1.959964 * difference.std() / math.sqrt(2000)
    assert interval.value == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.004)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.004)


def test_bootstrap_is_paired_seeded_and_independent_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = [0.0, 1.0, 0.0, 1.0, 5.0], [-1.0, 0.0, -1.0, 0.0, 4.0]
    interval = paired_bootstrap(first, second)
    assert (interval.low, interval.high) == (1.0, 1.0)
    mixed = [0.0, 1.0, 0.0, 1.0, 1.0]
    whole = paired_bootstrap(mixed, [0.0] * 5, seed=1)
    assert whole == paired_bootstrap(mixed, [0.0] * 5, seed=1)
    monkeypatch.setattr("tts_engine.report.intervals.CHUNK", 5 * 64)
    assert paired_bootstrap(mixed, [0.0] * 5, seed=1) == whole


def test_bootstrap_needs_pairs() -> None:
    cases: list[tuple[list[float], list[float]]] = [([], []), ([1.0], [1.0, 2.0])]
    for first, second in cases:
        with pytest.raises(ValueError, match="equally long"):
            paired_bootstrap(first, second)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_counts_subsets(case: tuple[int, int, int]) -> None:
    samples, right, k = case
    subsets = list(itertools.combinations(range(samples), k))
    share = sum(any(i < right for i in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(samples, right, k) == pytest.approx(share)


def test_pass_at_k_beyond_the_samples() -> None:
    assert (pass_at_k(3, 1, 8), pass_at_k(3, 0, 8), pass_at_k(0, 0, 1)) == (1.0, 0.0, 0.0)
    for case in ((3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="undefined"):
            pass_at_k(*case)
