"""Difficulty: quintiles of pass@1, estimated on other samples than those that are evaluated (Snell, 2408.03314).

Each pool is cut into two halves. One half estimates how hard the problem is, the other is evaluated; then the halves
change places, and both results count. Where one half did both, lucky samples would look like easy problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tts_engine.report.points import Bootstrap, Grid, Point, subsampled
from tts_engine.report.pools import Arm, Array, Pool

BINS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The problems of one level of difficulty.

    Attributes:
        low, high: pass@1 on the estimating samples, of the hardest and the easiest problem in the bin.
        problems: how many halves are in it, in problems (two halves are one problem).
        pass1: pass@1 on the evaluated samples.
        points: the configurations on the problems of the bin; accuracy nan where a problem is not in it.
    """

    low: float
    high: float
    problems: float
    pass1: float
    points: tuple[Point, ...]


def by_difficulty(arm: Arm, pools: Sequence[Pool], grid: Grid, bins: int = BINS) -> list[Bin]:
    """Hardest first; fewer bins where pass@1 has fewer values. Empty where the pools are too small to be cut."""
    if min(pool.size for pool in pools) < 2:
        return []
    halves = [[pool.part(range(first, pool.size - pool.size % 2, 2)) for pool in pools] for first in (0, 1)]
    estimates = [np.array([pool.right.mean() for pool in half]) for half in reversed(halves)]
    evaluated = [subsampled(arm, half, grid) for half in halves]
    pooled = np.concatenate(estimates)
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    places = [np.searchsorted(edges, estimate, side="right") for estimate in estimates]
    rates = [np.array([pool.right.mean() for pool in half]) for half in halves]
    found = []
    for number in range(len(edges) + 1):
        inside = [place == number for place in places]
        if not any(mask.any() for mask in inside):
            continue
        here = np.concatenate([estimate[mask] for estimate, mask in zip(estimates, inside, strict=True)])
        pairs = zip(*evaluated, strict=True)
        found.append(
            Bin(
                low=float(here.min()),
                high=float(here.max()),
                problems=len(here) / 2,
                pass1=float(np.concatenate([r[mask] for r, mask in zip(rates, inside, strict=True)]).mean()),
                points=tuple(_restricted(first, second, inside) for first, second in pairs),
            )
        )
    return found


def _restricted(first: Point, second: Point, inside: Sequence[Array]) -> Point:
    """One configuration on both halves of the problems that are in the bin."""
    both = [np.where(mask, point.accuracy, np.nan) for point, mask in zip((first, second), inside, strict=True)]
    costs = [np.where(mask[:, None], point.cost, np.nan) for point, mask in zip((first, second), inside, strict=True)]
    return Point(setting=first.setting, accuracy=_mean(both), cost=_mean(costs))


def _mean(pair: Sequence[Array]) -> Array:
    """Mean of two arrays; of one of them where the other is nan."""
    known = sum((~np.isnan(array)).astype(float) for array in pair)
    total = sum(np.nan_to_num(array) for array in pair)
    return np.where(np.asarray(known) > 0, total / np.maximum(known, 1.0), np.nan)


def bin_record(found: Bin, bootstrap: Bootstrap) -> Mapping[str, Any]:
    """For the report: the best plain and the best verified configuration of the bin, and what verifying adds."""
    best = {
        kind: max(points, key=lambda point: float(np.nanmean(point.accuracy)))
        for kind in ("plain", "verified")
        if (points := [point for point in found.points if getattr(point.setting, kind)])
    }
    record: dict[str, Any] = {
        "pass1_low": found.low,
        "pass1_high": found.high,
        "problems": found.problems,
        "pass1": found.pass1,
    }
    for kind, point in best.items():
        record[kind] = {"name": point.setting.name, **bootstrap.share(point.accuracy).asdict()}
    if len(best) == 2:
        gain = best["verified"].accuracy - best["plain"].accuracy
        record["gain"] = bootstrap.interval(gain).asdict()
    return record
