"""Calibration: pool adjacent violators by hand and against brute force, temperatures that are known, the file."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine.calibration import Calibration, fit, isotonic, logit, sigmoid, temperature_scaling
from tts_engine.errors import DataError

PAIRS = [(0.1, False), (0.2, True), (0.3, False), (0.9, True)]


@pytest.mark.parametrize(
    ("pairs", "scores", "shares"),
    [
        ([(0.2, False), (0.8, True)], [0.2, 0.8], [0.0, 1.0]),
        (PAIRS, [0.1, 0.2, 0.3, 0.9], [0.0, 0.5, 0.5, 1.0]),
        ([(0.1, True), (0.5, False), (0.9, True), (0.9, False)], [0.1, 0.9], [0.5, 0.5]),
        ([(0.4, True), (0.4, False), (0.4, False), (0.6, True)], [0.4, 0.6], [1 / 3, 1.0]),
        ([(0.1, True), (0.2, True), (0.3, False), (0.4, False)], [0.1, 0.4], [0.5, 0.5]),
    ],
)
def test_pooling_by_hand(pairs: list[tuple[float, bool]], scores: list[float], shares: list[float]) -> None:
    assert isotonic(pairs) == (scores, pytest.approx(shares))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=7))
def test_pooling_is_the_rising_fit_of_least_squares(truths: list[bool]) -> None:
    pairs = [(index / 10, ok) for index, ok in enumerate(truths)]
    scores, shares = isotonic(pairs)
    fitted = [float(_at(scores, shares, score)) for score, _ in pairs]
    assert fitted == sorted(fitted)
    grid = sorted({a / b for b in range(1, len(truths) + 1) for a in range(b + 1)})
    error = sum((f - ok) ** 2 for f, ok in zip(fitted, truths, strict=True))
    if len(truths) <= 5:
        rising = itertools.combinations_with_replacement(grid, len(truths))
        best = min(sum((f - ok) ** 2 for f, ok in zip(values, truths, strict=True)) for values in rising)
        assert error == pytest.approx(best)


def _at(scores: list[float], shares: list[float], score: float) -> float:
    return Calibration(level="steps", method="isotonic", scores=scores, shares=shares)(score)


def test_between_the_points_it_interpolates_and_beyond_them_it_is_flat() -> None:
    found = fit(PAIRS, "isotonic", "solutions")
    assert [found(score) for score in (0.0, 0.15, 0.25, 0.6, 1.0)] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_a_known_temperature_and_shift_are_found() -> None:
    draw = random.Random(0)
    scores = [draw.uniform(0.01, 0.99) for _ in range(20_000)]
    pairs = [(score, draw.random() < sigmoid(logit(score) / 2.5 + 0.4)) for score in scores]
    temperature, shift = temperature_scaling(pairs)
    assert temperature == pytest.approx(2.5, rel=0.1)
    assert shift == pytest.approx(0.4, abs=0.06)


def test_temperatures_stay_finite_where_scores_separate_and_where_they_mislead() -> None:
    for pairs in ([(0.0, False), (1.0, True)] * 5, [(0.9, False), (0.1, True)] * 5):
        found = fit(pairs, "temperature", "solutions")
        assert math.isfinite(found.temperature)
        assert 0 <= found(0.1) <= found(0.9) <= 1
    assert Calibration(level="steps", method="temperature")(0.3) == pytest.approx(0.3)


def test_the_file_in_a_place_or_beside_a_checkpoint(tmp_path: Path) -> None:
    found = fit(PAIRS, "isotonic", "solutions", samples=8)
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == Calibration.load(tmp_path) == found
    assert (found.samples, found.pairs) == (8, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no calibration"),
        (json.dumps({"level": "steps", "method": "isotonic"}), "is no calibration"),
        (
            json.dumps({"level": "steps", "method": "isotonic", "scores": [0.2, 0.1], "shares": [0, 1]}),
            "no calibration",
        ),
        (json.dumps({"level": "steps", "method": "temperature", "temperature": 0.0}), "is no calibration"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Calibration.load(tmp_path / "c.json")


def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="right and wrong examples"):
        fit([(0.3, True), (0.4, True)], "isotonic", "steps")
    with pytest.raises(DataError, match="make it with tts-eval calibrate"):
        Calibration.load(tmp_path / "none.json")
