"""Verdicts from samples: early-stopped ones count for the steps they reached, unparseable ones for nothing."""

from __future__ import annotations

import pytest

from tts_engine.types import StepJudgement
from tts_engine.verifiers.verdicts import make_verdict


def chain(*scores: float | None) -> tuple[StepJudgement, ...]:
    return tuple(StepJudgement(score=score) for score in scores)


def test_a_step_is_averaged_over_the_samples_that_reached_it() -> None:
    verdict = make_verdict([chain(1.0, 1.0), chain(1.0, 0.0), chain(0.0)], "product")
    assert verdict.step_scores == pytest.approx((2 / 3, 1 / 2))
    assert verdict.value == pytest.approx(1 / 3)


def test_invalid_judgements_are_counted_and_left_out() -> None:
    verdict = make_verdict([chain(1.0, None), chain(0.5, 0.5)], "min")
    assert verdict.step_scores == pytest.approx((0.75, 0.5))
    assert verdict.invalid_samples == 1
    nothing = make_verdict([chain(None), chain(None)], "min")
    assert (nothing.value, nothing.invalid_samples, nothing.valid) == (None, 2, False)


def test_scores_end_where_no_valid_sample_arrived() -> None:
    assert make_verdict([chain(0.9, None)], "last").step_scores == (0.9,)
    assert make_verdict([], "mean").value is None
