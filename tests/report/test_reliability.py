"""Ranking and calibration of scores against counts by hand and by brute force."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.report.reliability import area, brier, expected_error, reliability

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.booleans()), max_size=30)


@settings(deadline=None)
@given(SCORES)
def test_the_area_counts_pairs(pairs: list[tuple[float, bool]]) -> None:
    right, wrong = ([score for score, ok in pairs if ok is kind] for kind in (True, False))
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    expected = pytest.approx(sum(wins) / len(wins)) if wins else None
    assert area(pairs) == expected


def test_bins_and_errors_by_hand() -> None:
    pairs = [(0.1, False), (0.15, True), (1.0, True), (0.95, True)]
    bins = reliability(pairs)
    assert bins == [
        {"count": 2, "score": pytest.approx(0.125), "right": 0.5},
        {"count": 2, "score": pytest.approx(0.975), "right": 1.0},
    ]
    assert expected_error(bins) == pytest.approx((0.375 + 0.025) / 2)
    assert brier(pairs) == pytest.approx((0.01 + 0.7225 + 0 + 0.0025) / 4)


def test_a_perfectly_calibrated_score_has_no_error() -> None:
    pairs = [(0.25, number % 4 == 0) for number in range(40)] + [(0.75, number % 4 != 0) for number in range(40)]
    assert expected_error(reliability(pairs)) == pytest.approx(0.0)
