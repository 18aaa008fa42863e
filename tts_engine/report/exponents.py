"""How the best N and K grow with compute: N* ~ C^a, K* ~ C^b (Singhi, 2504.01005: a = 0.57, b = 0.39 for Llama-3.1-8B
with a fine-tuned verifier on MATH).

At each of a row of budgets the most accurate verified configuration that it can pay is taken; the slopes of log N and
log K against log C are least-squares lines. Budgets from which the best one lies at the edge of the grid (the largest N
or K) say more about the grid than about the models: they are left out. Intervals: the whole fit on resampled problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tts_engine.report.frontier import priced
from tts_engine.report.intervals import Interval
from tts_engine.report.points import Bootstrap, Point
from tts_engine.report.pools import Array

BUDGETS = 24
"""Budgets between the cheapest and the dearest verified configuration, evenly spaced on a log scale."""
PUBLISHED = {"n": 0.57, "k": 0.39}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponents:
    """The fit of one arm and selector, or why there is none.

    Attributes:
        n, k: the exponents of N and K with their intervals; None where not estimable (`reason` says why).
        optimal: for each budget of the fit, (cost, N*, K*).
        edge: budgets that were left out because the best configuration lay at the edge of the grid.
    """

    unit: str
    n: Interval | None
    k: Interval | None
    reason: str = ""
    optimal: tuple[tuple[float, int, int], ...] = ()
    edge: int = 0


def exponents(points: Sequence[Point], unit: str, bootstrap: Bootstrap) -> Exponents:
    """Fit the verified configurations (K of at least 1) among `points`, which should be of one arm and selector."""
    verified = [point for point in points if point.setting.verified]
    if not verified:
        return Exponents(unit=unit, n=None, k=None, reason="nothing was verified")
    ordered = priced(verified, unit)
    costs = np.array([point.mean_cost(unit) for point in ordered])
    ns, ks = (np.array([getattr(point.setting, name) for point in ordered]) for name in ("n", "k"))
    if len(set(ns)) < 3:
        return Exponents(unit=unit, n=None, k=None, reason="fewer than three values of N were measured")
    budgets = np.geomspace(costs[0], costs[-1], BUDGETS) * (1 + 1e-9)
    accuracy = np.stack([point.accuracy for point in ordered], axis=1)
    chosen = _optimal(accuracy.mean(axis=0, keepdims=True), costs, budgets)[0]
    inner = _inner(ns[chosen], ks[chosen], ns.max(), ks.max())
    optimal = tuple((float(b), int(ns[i]), int(ks[i])) for b, i in zip(budgets[inner], chosen[inner], strict=True))
    edge = int((~inner).sum())
    if len({point[1:] for point in optimal}) < 3:
        reason = f"fewer than three optima inside the grid ({edge} of {BUDGETS} budgets lie at its edge)"
        return Exponents(unit=unit, n=None, k=None, reason=reason, optimal=optimal, edge=edge)
    resampled = _optimal(bootstrap.means(accuracy), costs, budgets[inner])
    logs = np.log(budgets[inner])
    only = f"only K={ks[0]} was measured" if len(set(ks)) < 2 else ""
    return Exponents(
        unit=unit,
        n=_slopes(logs, np.log(ns)[chosen[inner]], np.log(ns)[resampled]),
        k=None if only else _slopes(logs, np.log(ks)[chosen[inner]], np.log(ks)[resampled]),
        reason=only,
        optimal=optimal,
        edge=edge,
    )


def _optimal(accuracy: Array, costs: Array, budgets: Array) -> NDArray[np.int64]:
    """[rows, budgets] index of the best affordable point in each row of accuracies; of equals the cheapest."""
    return np.stack([accuracy[:, costs <= budget].argmax(axis=1) for budget in budgets], axis=1)


def _inner(ns: NDArray[np.int64], ks: NDArray[np.int64], most: int, deepest: int) -> NDArray[np.bool_]:
    """Budgets before the first whose best configuration has the largest N, or the largest K where K varies."""
    at_edge = (ns >= most) | ((ks >= deepest) & (deepest > 1))
    return ~np.logical_or.accumulate(at_edge)


def _slopes(x: Array, y: Array, resampled: Array) -> Interval:
    centred = x - x.mean()
    slopes = (resampled @ centred) / (centred @ centred)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Interval(value=float((y @ centred) / (centred @ centred)), low=float(low), high=float(high))
