"""How far scores can be trusted: ranking (area under the curve) and calibration, on (score, right?) pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Pair = tuple[float, bool]
BINS = 10


def area(pairs: Sequence[Pair]) -> float | None:
    """Chance that a right one has a higher score than a wrong one, ties half; None where one kind is missing.

    >>> area([(0.9, True), (0.1, False), (0.9, False)])
    0.75
    """
    right = np.array([score for score, ok in pairs if ok])
    wrong = np.sort([score for score, ok in pairs if not ok])
    if not right.size or not wrong.size:
        return None
    below = np.searchsorted(wrong, right, side="left") + np.searchsorted(wrong, right, side="right")
    return float(below.sum() / 2 / right.size / wrong.size)


def reliability(pairs: Sequence[Pair], bins: int = BINS) -> list[dict[str, float]]:
    """Equal-width bins of the score that are not empty: `count`, mean `score`, share `right`.

    Args:
        pairs: scores in [0, 1]; the last bin includes 1.
    """
    members: dict[int, list[Pair]] = {}
    for score, ok in pairs:
        members.setdefault(min(int(score * bins), bins - 1), []).append((score, ok))
    return [
        {
            "count": len(found),
            "score": math.fsum(score for score, _ in found) / len(found),
            "right": sum(ok for _, ok in found) / len(found),
        }
        for _, found in sorted(members.items())
    ]


def expected_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Expected calibration error: mean distance of score and share over the bins, by their counts."""
    total = sum(each["count"] for each in bins)
    return math.fsum(each["count"] * abs(each["score"] - each["right"]) for each in bins) / total


def brier(pairs: Sequence[Pair]) -> float:
    """Mean squared distance of the score from the truth."""
    return math.fsum((score - ok) ** 2 for score, ok in pairs) / len(pairs)
