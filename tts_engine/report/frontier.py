"""The compute-optimal configurations: the Pareto frontier, where verifying starts to pay, what to do with a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tts_engine.compute.budget import Budget
from tts_engine.errors import DataError, UsageError
from tts_engine.report.intervals import Interval
from tts_engine.report.points import Bootstrap, Point
from tts_engine.report.pools import UNITS, Array
from tts_engine.types import Key

FOLDS = 5


def not_estimable(points: Sequence[Point], unit: str) -> str | None:
    """Why costs in this unit cannot be compared; None where they can.

    Tokens of different vocabularies are different things: a sum of them, or a comparison, means nothing.
    """
    sizes = {size for point in points for size in point.setting.arm.vocabularies}
    if unit == "tokens" and len(sizes) > 1:
        return f"the models have different tokenizers ({', '.join(map(str, sorted(sizes)))} tokens); compare FLOPs"
    if not any(math.isfinite(point.mean_cost(unit)) for point in points):
        return "it was not recorded"
    return None


def priced(points: Sequence[Point], unit: str) -> list[Point]:
    """The points whose cost in this unit is known, cheapest first (of equally dear ones the more accurate first).

    Raises:
        DataError: there are none, or the unit is not estimable.
    """
    if not points:
        raise DataError("nothing was compared, so there is no frontier; give recordings, or strategies to run")
    if (reason := not_estimable(points, unit)) is not None:
        known = [name for name in UNITS if not_estimable(points, name) is None]
        raise DataError(
            f"the cost in {unit} is not estimable: {reason}; use {' or '.join(known) or 'other recordings'}"
        )
    known_points = [point for point in points if math.isfinite(point.mean_cost(unit))]
    return sorted(known_points, key=lambda point: (point.mean_cost(unit), -point.accuracy.mean()))


def frontier(points: Sequence[Point], unit: str) -> list[Point]:
    """The points that no cheaper or equally dear one equals in mean accuracy, cheapest first. Raises as `priced`."""
    best, found = -1.0, []
    for point in priced(points, unit):
        if point.accuracy.mean() > best + 1e-12:
            best = float(point.accuracy.mean())
            found.append(point)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """From which cost on the best verified configuration beats the best plain one.

    Attributes:
        value: the cost; None where it never does (within what was measured).
        low, high: the middle 95 % of the resamples, infinite where in those it never does; never: their share.
        sure: the cost from which the difference's own interval stays above 0; None where it never does.
        regime: the best plain point below the crossover.
    """

    unit: str
    value: float | None
    low: float
    high: float
    never: float
    sure: float | None
    regime: Point | None


def crossover(points: Sequence[Point], unit: str, bootstrap: Bootstrap) -> Crossover | None:
    """Compare, at every cost that a configuration has, the best affordable verified one with the best plain one.

    None where one of the two kinds is missing. The best one is chosen anew in each resample, so the interval includes
    the choice. Raises as `priced`.
    """
    ordered = priced(points, unit)
    ordered = [point for point in ordered if point.setting.plain or point.setting.verified]
    plain = np.array([point.setting.plain for point in ordered])
    if plain.all() or not plain.any():
        return None
    costs = np.array([point.mean_cost(unit) for point in ordered])
    accuracy = np.stack([point.accuracy for point in ordered], axis=1)
    resampled = bootstrap.means(accuracy)
    gap = _gap(accuracy.mean(axis=0, keepdims=True), plain)[0]
    gaps = _gap(resampled, plain)
    value = _stays(gap > 0, costs)
    found = np.array([_stays(row > 0, costs) for row in gaps])
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    below = [point for point in ordered if point.setting.plain and point.mean_cost(unit) < value]
    sure = _stays(np.quantile(gaps, 0.025, axis=0) > 0, costs)
    return Crossover(
        unit=unit,
        value=None if math.isinf(value) else value,
        low=float(low),
        high=float(high),
        never=float(np.isinf(found).mean()),
        sure=None if math.isinf(sure) else sure,
        regime=max(below, key=lambda point: point.accuracy.mean(), default=None),
    )


def _gap(accuracy: Array, plain: NDArray[np.bool_]) -> Array:
    """[rows, costs] best verified minus best plain accuracy affordable at the cost of each point (ordered by cost)."""
    verified = np.maximum.accumulate(np.where(plain, -1.0, accuracy), axis=1)
    voted = np.maximum.accumulate(np.where(plain, accuracy, -1.0), axis=1)
    return verified - voted


def _stays(above: NDArray[np.bool_], costs: Array) -> float:
    """The cost from which on it is always true; infinite where it is not true at the end."""
    if not above[-1]:
        return math.inf
    last = np.flatnonzero(~above)
    return float(costs[last[-1] + 1] if len(last) else costs[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to do with a budget.

    Attributes:
        accuracy: of the choice on all problems; honest: chosen on four fifths of the problems and measured on the rest,
            which takes out the luck of the choice.
        gain: over the best plain configuration that the budget allows; None where that is the choice.
        tied: cheaper configurations that are not significantly worse.
    """

    point: Point
    accuracy: Interval
    honest: float
    gain: Interval | None
    plain: Point | None
    tied: tuple[Point, ...]


def recommend(points: Sequence[Point], budget: Budget, bootstrap: Bootstrap) -> Recommendation:
    """The most accurate configuration whose mean cost a problem is within the budget, in all its units.

    Raises:
        UsageError: no configuration is that cheap, the message names the cheapest; or a unit is not estimable.
    """
    limits = limits_of(budget)
    affordable = within(points, limits)
    best = min(affordable, key=lambda point: (-point.accuracy.mean(), *(point.mean_cost(unit) for unit in limits)))
    plain = max(
        (p for p in affordable if p.setting.plain), key=lambda point: float(point.accuracy.mean()), default=None
    )
    first = next(iter(limits))
    cheaper = [p for p in affordable if p.mean_cost(first) < best.mean_cost(first)]
    tied = [p for p in cheaper if bootstrap.interval(best.accuracy - p.accuracy).low <= 0]
    rival = None if plain is None or plain is best else bootstrap.interval(best.accuracy - plain.accuracy)
    return Recommendation(
        point=best,
        accuracy=bootstrap.share(best.accuracy),
        honest=_held_out(affordable),
        gain=rival,
        plain=plain,
        tied=tuple(sorted(tied, key=lambda point: point.mean_cost(first))),
    )


def limits_of(budget: Budget) -> dict[str, float]:
    """The limits by unit.

    Raises:
        UsageError: it limits nothing.
    """
    limits = {unit: float(limit) for unit in UNITS[:-1] if (limit := getattr(budget, unit)) is not None}
    if not limits:
        raise UsageError("the budget limits nothing; write it like tokens=1500 (a problem, both models)")
    return limits


def within(points: Sequence[Point], limits: Mapping[str, float]) -> list[Point]:
    """The points that a budget can pay. Raises as `recommend`."""
    known = list(points)
    for unit in limits:
        known = [point for point in priced(known, unit) if math.isfinite(point.mean_cost(unit))]
    affordable = [p for p in known if all(p.mean_cost(unit) <= limit for unit, limit in limits.items())]
    if not affordable:
        unit, limit = next(iter(limits.items()))
        cheapest = known[0]
        raise UsageError(
            f"the budget {unit}={limit:g} is below the cheapest configuration ({cheapest.setting.name}:"
            f" {cheapest.mean_cost(unit):.4g} {unit} a problem); raise it to at least that"
        )
    return affordable


def _held_out(points: Sequence[Point]) -> float:
    """Accuracy of the choice made on the other folds, cross-validated over problems."""
    accuracy = np.stack([point.accuracy for point in points], axis=1)
    size = len(accuracy)
    if size < 2:
        return float(accuracy.max())
    order = sorted(range(size), key=lambda i: Key(0, ("fold", i)).int())
    scores = np.empty(size)
    for fold in range(min(FOLDS, size)):
        held = np.array(order[fold::FOLDS])
        rest = np.setdiff1d(np.arange(size), held)
        scores[held] = accuracy[held, accuracy[rest].mean(axis=0).argmax()]
    return float(scores.mean())
