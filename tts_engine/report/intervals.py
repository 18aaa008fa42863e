"""How sure a measured share is: Wilson's interval, the paired bootstrap, the unbiased pass@k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CHUNK = 1_000_000
"""Most draws of the bootstrap that are held in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and where it lies with the given confidence."""

    value: float
    low: float
    high: float

    def asdict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson, 1927; without continuity correction).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials have no share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(value=share, low=low, high=high)


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Percentile interval of the mean of `first - second`, problems resampled as pairs.

    Args:
        first, second: one number for each problem, in the same order; not empty.
        seed: of the resampling; equal seeds give equal intervals.
    """
    if len(first) != len(second) or not first:
        raise ValueError("the bootstrap needs two equally long sequences, not empty")
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    random = np.random.default_rng(seed)
    rows = max(1, min(resamples, CHUNK // differences.size))
    means = np.concatenate([
        differences[random.integers(0, differences.size, (min(rows, resamples - start), differences.size))].mean(axis=1)
        for start in range(0, resamples, rows)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=float(differences.mean()), low=float(low), high=float(high))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k samples is right, drawn without replacement from `samples` of which `right` are.

    Unbiased for independent samples (Chen et al., 2107.03374, equation 1); `k` above `samples` counts as `samples`.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= right <= samples or k < 1:
        raise ValueError(f"pass@{k} of {right} right among {samples} samples is undefined")
    if samples - right < k:
        return float(right > 0)
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
