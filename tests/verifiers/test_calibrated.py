"""Calibrated verifiers: the map is applied where it was fitted, and unsure values become abstentions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tts_engine.calibration import Calibration
from tts_engine.formats import prm
from tts_engine.judging import judge_candidate
from tts_engine.types import Candidate, Key, Problem
from tts_engine.verifiers import VERIFIERS, DiscriminativePRM

Scripted = Callable[..., Any]
PROBLEM = Problem(id="p", prompt="1+1?")
STEPS = ("1+1=2.", "So 2.")


def sure(share: float) -> tuple[str, dict[str, float]]:
    return prm.GOOD, {prm.GOOD: math.log(share), prm.BAD: math.log(1 - share)}


def stored(folder: Path, level: Any) -> str:  # noqa: ANN401
    """Scores below 0.5 mean 0.2, above 0.7 they mean 0.9."""
    made = Calibration(level=level, method="isotonic", scores=[0.5, 0.7], shares=[0.2, 0.9])
    made.save(folder / "calibration.json")
    return str(folder)


async def test_values_and_steps_are_calibrated_where_the_map_was_fitted(scripted: Scripted, tmp_path: Path) -> None:
    params = {"model": "verifier", "aggregation": "product"}
    _, calls = scripted(sure(0.9), sure(0.6))
    whole = VERIFIERS["prm"](**params, calibration=stored(tmp_path, "solutions"))
    verdict = await whole.open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert verdict.step_scores == pytest.approx((0.9, 0.6))
    assert verdict.value == pytest.approx(0.2 + 0.7 * 0.04 / 0.2)
    _, calls = scripted(sure(0.9), sure(0.6))
    by_step = VERIFIERS["prm"](**params, calibration=stored(tmp_path, "steps"))
    verdict = await by_step.open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert verdict.step_scores == pytest.approx((0.9, 0.55))
    assert verdict.value == pytest.approx(0.9 * 0.55)
    assert verdict.samples[0][1].score == pytest.approx(0.6)


@pytest.mark.parametrize(("share", "value"), [(0.9, 0.9), (0.7, None), (0.15, 0.15)])
async def test_an_unsure_verifier_abstains(scripted: Scripted, share: float, value: float | None) -> None:
    _, calls = scripted(sure(share))
    verifier = VERIFIERS["outcome"](model="verifier", abstain=0.8)
    verdict = await verifier.open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert verdict.value == (value if value is None else pytest.approx(value))
    assert verdict.samples[0][0].score == pytest.approx(share)


async def test_the_file_beside_the_checkpoint_and_members_that_look_at_candidates(
    scripted: Scripted, tmp_path: Path
) -> None:
    stored(tmp_path, "solutions")
    (tmp_path / "model").mkdir()
    stored(tmp_path / "model", "solutions")
    verifier = VERIFIERS["prm"](model=str(tmp_path / "model"), calibration="checkpoint")
    assert verifier.cost_ratio == 1.0
    sure_of_itself = VERIFIERS["confidence"](calibration=str(tmp_path))
    candidate = Candidate(problem=PROBLEM, key=Key(0), mean_logprob=math.log(0.6))
    verdict = await judge_candidate(sure_of_itself.open(PROBLEM, Key(0)), candidate, 1, scripted()[1])
    assert verdict.value == pytest.approx(0.55)


def test_without_either_the_verifier_is_itself() -> None:
    assert VERIFIERS["prm"](model="verifier") == DiscriminativePRM(model="verifier")
