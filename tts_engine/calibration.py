"""Making scores mean probabilities: isotonic regression and temperature scaling, and the file they are kept in.

A calibration is fitted on (score, right?) pairs by `tts-eval calibrate` and applied by any verifier that is given it.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tts_engine.errors import DataError, first_line

Pair = tuple[float, bool]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Literal["solutions", "steps"]
NAME = "calibration.json"
"""Its name beside a checkpoint."""
EDGE = 1e-6
"""Scores are kept this far from 0 and 1 before their logit is taken."""


class Calibration(BaseModel):
    """A monotone map from scores to probabilities.

    Attributes:
        level: whether it was fitted on values of solutions or on scores of steps, and is applied to them.
        method: `isotonic` interpolates between the points (`scores`, `shares`), flat beyond them; `temperature` is
            sigmoid((logit(score) / temperature) + shift).
        samples: number of verifier samples it was fitted at: scores of another number are calibrated less well.
        pairs: number of pairs it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    level: Level
    method: Literal["isotonic", "temperature"]
    scores: list[Share] = []
    shares: list[Share] = []
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    shift: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    samples: int = 0
    pairs: int = 0

    @model_validator(mode="after")
    def _monotone(self) -> Calibration:
        points = [self.scores, self.shares]
        if len(self.scores) != len(self.shares) or any(sorted(found) != found for found in points):
            raise ValueError("scores and shares must be as many, and rising")
        if self.method == "isotonic" and not self.scores:
            raise ValueError("an isotonic calibration needs points")
        return self

    def __call__(self, score: float) -> float:
        """The calibrated probability of a score in [0, 1]."""
        if self.method == "isotonic":
            return _between(self.scores, self.shares, score)
        return sigmoid(logit(score) / self.temperature + self.shift)

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; `DataError` where it cannot be written."""
        try:
            path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {path} ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a calibration file, or the one in a checkpoint's folder; `DataError` where there is none."""
        path = path / NAME if path.is_dir() else path
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}); make it with tts-eval calibrate") from None
        except (ValueError, ValidationError) as error:
            raise DataError(f"{path} is no calibration ({first_line(error)}); make it anew") from None


def fit(pairs: Sequence[Pair], method: str, level: Level, samples: int = 0) -> Calibration:
    """Fit a calibration.

    Args:
        pairs: scores in [0, 1] with the truth.
        method: `isotonic` or `temperature`.

    Raises:
        DataError: the pairs are all right or all wrong, or fewer than two.
    """
    if len({ok for _, ok in pairs}) < 2:
        raise DataError("a calibration needs right and wrong examples; judge a set that has both")
    facts: dict[str, Any] = {"level": level, "samples": samples, "pairs": len(pairs)}
    if method == "isotonic":
        scores, shares = isotonic(pairs)
        return Calibration(method="isotonic", scores=scores, shares=shares, **facts)
    temperature, shift = temperature_scaling(pairs)
    return Calibration(method="temperature", temperature=temperature, shift=shift, **facts)


def isotonic(pairs: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """Pool adjacent violators: the rising step function of least squared error, as its corners.

    >>> isotonic([(0.1, False), (0.2, True), (0.3, False), (0.9, True)])
    ([0.1, 0.2, 0.3, 0.9], [0.0, 0.5, 0.5, 1.0])
    """
    blocks: list[list[float]] = []  # lowest score, highest score, sum of truths, count
    for score, ok in sorted(pairs):
        if blocks and blocks[-1][1] == score:
            blocks[-1][2:] = blocks[-1][2] + ok, blocks[-1][3] + 1
        else:
            blocks.append([score, score, float(ok), 1.0])
    pooled: list[list[float]] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2][2] * pooled[-1][3] >= pooled[-1][2] * pooled[-2][3]:
            low, high = pooled[-2], pooled.pop()
            low[1:] = high[1], low[2] + high[2], low[3] + high[3]
    corners = [(score, block[2] / block[3]) for block in pooled for score in dict.fromkeys(block[:2])]
    return [score for score, _ in corners], [share for _, share in corners]


def temperature_scaling(pairs: Sequence[Pair], steps: int = 50) -> tuple[float, float]:
    """Temperature and shift of least log loss (Platt scaling on the logit), by Newton's method.

    A tiny pull towards 1 and 0 keeps them finite where the scores separate right from wrong. A temperature below zero
    (scores that point the wrong way) is replaced by a very high one, which makes all scores equal.
    """
    import numpy as np

    x = np.array([logit(score) for score, _ in pairs])
    y = np.array([float(ok) for _, ok in pairs])
    design = np.stack([x, np.ones_like(x)], axis=1)
    weights, prior, pull = np.array([1.0, 0.0]), np.array([1.0, 0.0]), 1e-3
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -50.0, 50.0)))
        gradient = design.T @ (p - y) + pull * (weights - prior)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + pull * np.eye(2)
        change = np.linalg.solve(curvature, gradient)
        weights = weights - change / max(1.0, float(np.abs(change).max()))
    slope = max(float(weights[0]), 1e-3)
    return 1.0 / slope, float(weights[1])


def _between(scores: Sequence[float], shares: Sequence[float], score: float) -> float:
    """Linear between the points, flat beyond them."""
    place = bisect.bisect_right(scores, score)
    if place in (0, len(scores)):
        return shares[min(place, len(scores) - 1)]
    low, high = scores[place - 1], scores[place]
    return shares[place - 1] + (shares[place] - shares[place - 1]) * (score - low) / (high - low)


def logit(score: float) -> float:
    """Log odds of a score, bounded at the edges."""
    score = min(max(score, EDGE), 1 - EDGE)
    return math.log(score / (1 - score))


def sigmoid(odds: float) -> float:
    """The probability of log odds."""
    return 1.0 / (1.0 + math.exp(-odds)) if odds > -700 else 0.0
