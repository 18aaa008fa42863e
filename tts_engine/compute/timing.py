"""How long a call takes: fitted on what a backend measured itself, with calls that run beside it. Pure functions.

    seconds = overhead + prompt * (uncached prompt tokens) + completion * (token + crowd * (calls beside it))

`crowd` is what one more call in the batch adds to a step of decoding: about 0 while the device has room, and the slope
of a saturated one. Latency is not compute: a budget in FLOPs says little about seconds, so both are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tts_engine.errors import DataError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedCall:
    """A finished call: when it ran, in seconds on any clock, its uncached prompt tokens and its generated ones."""

    start: float
    end: float
    prompt: int
    completion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondsModel:
    """The formula above; all parameters in seconds, none below 0."""

    overhead: float = 0.0
    prompt: float = 0.0
    token: float = 0.0
    crowd: float = 0.0

    def seconds(self, prompt: int, completion: int, beside: float = 0.0) -> float:
        """Expected duration of a call.

        Args:
            prompt: prompt tokens that are not cached.
            completion: generated tokens.
            beside: calls that run at the same time, on average.
        """
        return self.overhead + self.prompt * prompt + completion * (self.token + self.crowd * beside)


def beside(calls: Sequence[TimedCall]) -> list[float]:
    """For each call, how many others ran beside it on average over its time."""
    starts = np.sort([call.start for call in calls])
    ends = np.sort([call.end for call in calls])
    begun, ended = (np.concatenate([[0.0], np.cumsum(times)]) for times in (starts, ends))

    def area(t: float) -> float:
        """Call-seconds of all calls up to t."""
        n, m = np.searchsorted(starts, t), np.searchsorted(ends, t)
        return float(n * t - begun[n] - (m * t - ended[m]))

    return [(area(c.end) - area(c.start)) / (c.end - c.start) - 1 if c.end > c.start else 0.0 for c in calls]


def fit_seconds(calls: Sequence[TimedCall]) -> SecondsModel:
    """The model of least squared error among those without negative parameters.

    Raises:
        DataError: there are fewer calls than parameters.
    """
    if len(calls) < len(fields(SecondsModel)):
        raise DataError(f"{len(calls)} calls are too few to fit seconds on; measure more")
    crowd = beside(calls)
    design = np.array([[1.0, c.prompt, c.completion, c.completion * b] for c, b in zip(calls, crowd, strict=True)])
    took = np.array([call.end - call.start for call in calls])
    overhead, prompt, token, slope = _nonnegative(design, took)
    return SecondsModel(overhead=overhead, prompt=prompt, token=token, crowd=slope)


def _nonnegative(design: Array, target: Array) -> list[float]:
    """Least squares with no negative coefficient: the best over all sets of columns (there are few)."""
    columns = design.shape[1]
    best, found = float(target @ target), [0.0] * columns
    for mask in range(1, 1 << columns):
        chosen = [i for i in range(columns) if mask >> i & 1]
        part, *_ = np.linalg.lstsq(design[:, chosen], target, rcond=None)
        error = float(((design[:, chosen] @ part - target) ** 2).sum())
        if (part >= 0).all() and error < best:
            best = error
            found = [float(part[chosen.index(i)]) if i in chosen else 0.0 for i in range(columns)]
    return found
