"""Labels from rollout counts: published cases, exact comparisons, brute force."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts_engine.errors import ConfigError
from tts_engine.formats.policy import split_steps
from tts_engine.verifiers.training.rpe import (
    Count,
    binary_search,
    cut,
    exact_threshold,
    final_counts,
    first_bad,
    hard_labels,
    rollouts_for,
    rpe_labels,
    soft_labels,
)

CASES: dict[str, list[Any]] = json.loads((Path(__file__).parents[1] / "fixtures" / "rpe_cases.json").read_text())
SHARES = st.integers(1, 64).flatmap(lambda n: st.builds(Count, st.integers(0, n), st.just(n)))


def count(share: float) -> Count:
    exact = Fraction(str(share))
    return Count(exact.numerator, exact.denominator)


@pytest.mark.parametrize("case", CASES["rpe"])
def test_published_cases_of_relative_progress(case: dict[str, Any]) -> None:
    counts = [count(share) for share in case["mc_raw"]]
    labels = rpe_labels(count(case["mc_s1"]), counts)
    # Where the recorded progress is 0.8 but for rounding, the recording (in floats) says 0 and exact arithmetic 1.
    traps = [p is not None and 0 < 0.8 - p < 1e-12 for p in case["P"]]
    wanted = tuple(bool(label) or trap for label, trap in zip(case["labels_per_step"], traps, strict=True))
    assert labels == wanted
    assert [round(c.share, 9) for c in cut(counts)] == case["mc_after_cut"]
    if not any(traps):
        assert first_bad(labels) == case["first_error"]


def test_the_float_traps_are_among_the_cases() -> None:
    assert rpe_labels(Count(9, 10), [Count(72, 100)]) == (True,)
    assert 0.72 / 0.9 < 0.8
    assert rpe_labels(Count(9, 10), [Count(71, 100)]) == (False,)


@pytest.mark.parametrize("case", CASES["rollouts"])
def test_published_numbers_of_rollouts(case: dict[str, Any]) -> None:
    assert rollouts_for(count(case["pass1"])) == case["K_paper_eq9"]


@pytest.mark.parametrize("case", CASES["steps"])
def test_published_step_splits(case: dict[str, Any]) -> None:
    assert list(split_steps(case["text"])) == case["steps"]


@given(SHARES, st.lists(SHARES, min_size=1, max_size=6), st.integers(2, 7))
def test_labels_depend_on_shares_alone(before: Count, counts: list[Count], factor: int) -> None:
    larger = [Count(c.right * factor, c.total * factor) for c in counts]
    assert rpe_labels(before, counts) == rpe_labels(Count(before.right * factor, before.total * factor), larger)
    assert hard_labels(counts) == hard_labels(larger)


@given(SHARES, st.lists(SHARES, min_size=1, max_size=6))
def test_a_stricter_threshold_never_makes_a_step_good(before: Count, counts: list[Count]) -> None:
    thresholds = [Fraction(1, 2), Fraction(4, 5), Fraction(1)]
    lenient, middle, strict = (rpe_labels(before, counts, threshold) for threshold in thresholds)
    assert all(a >= b >= c for a, b, c in zip(lenient, middle, strict, strict=True))
    assert all(hard >= good for hard, good in zip(hard_labels(counts), lenient, strict=True))


def test_soft_labels_compare_exactly() -> None:
    assert soft_labels([Count(1, 10), Count(3, 10), Count(5, 10)], Fraction("0.3")) == (False, True, True)


@pytest.mark.parametrize(("value", "exact"), [(0.8, Fraction(4, 5)), (1, Fraction(1)), ("0.05", Fraction(1, 20))])
def test_thresholds_are_what_a_person_writes(value: float | str, exact: Fraction) -> None:
    assert exact_threshold(value) == exact


@pytest.mark.parametrize("value", [0, -1, "much", math.nan])
def test_senseless_thresholds_are_refused(value: float | str) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        exact_threshold(value)


@pytest.mark.parametrize("steps", range(1, 10))
def test_binary_search_finds_every_first_dead_step_with_few_looks(steps: int) -> None:
    for error in range(steps):
        looked: list[int] = []

        def alive(step: int, error: int = error, looked: list[int] = looked) -> bool:
            looked.append(step)
            return step < error

        assert binary_search(alive, steps) == error
        assert len(looked) <= math.ceil(math.log2(steps)) if steps > 1 else not looked


def test_final_counts_are_a_distribution_around_what_was_seen() -> None:
    chances = final_counts(3, 8, 32)
    assert sum(chances) == pytest.approx(1)
    assert len(chances) == 33
    assert sum(chances[:3]) == sum(chances[28:]) == 0  # 3 are right already, 5 wrong
    mean = sum(k * p for k, p in enumerate(chances))
    assert mean == pytest.approx(3 + 24 * 3.5 / 9)  # posterior mean of Jeffreys' prior
    assert final_counts(2, 5, 5) == [0, 0, pytest.approx(1), 0, 0, 0]


def test_a_share_without_rollouts_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        Count(0, 0)
