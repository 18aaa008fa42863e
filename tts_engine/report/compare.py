"""A comparison: from recorded samples and measured searches to everything that the report says, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tts_engine.compute.budget import Budget
from tts_engine.errors import DataError
from tts_engine.report.difficulty import bin_record, by_difficulty
from tts_engine.report.exponents import PUBLISHED, exponents
from tts_engine.report.frontier import Recommendation, crossover, frontier, not_estimable, recommend
from tts_engine.report.points import Bootstrap, Grid, Point, Setting, as_record, oracle_curve, subsampled
from tts_engine.report.pools import UNITS, Arm, Array, Pool

Record = dict[str, Any]
PREFERRED = ("flops", "tokens", "seconds", "dollars", "chars")
"""The unit of the report is the first of these that is estimable, unless one is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one arm drew, a pool for each problem."""

    arm: Arm
    pools: Sequence[Pool]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A search that was run at one setting: by problem, the share of its seeds that were right and its [units] cost."""

    setting: Setting
    problems: Mapping[str, tuple[float, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All configurations on the same problems."""

    problems: tuple[str, ...]
    recordings: tuple[Recording, ...]
    points: tuple[Point, ...]
    bootstrap: Bootstrap
    grid: Grid
    notes: tuple[str, ...]


def compare(
    recordings: Sequence[Recording], measured: Sequence[Measured], grid: Grid, notes: Sequence[str] = ()
) -> Comparison:
    """Evaluate every configuration on the problems that all of them have.

    Args:
        notes: what the report should say besides.

    Raises:
        DataError: there is nothing to compare, or no problem in common.
    """
    if not recordings and not measured:
        raise DataError("there is nothing to compare; give recordings, or strategies to run")
    sources = [{pool.problem for pool in recording.pools} for recording in recordings]
    sources += [set(run.problems) for run in measured]
    common = sorted(set.intersection(*sources))
    if not common:
        raise DataError("the recordings have no problem in common; compare recordings of the same problems")
    said = [*notes, *(note for recording in recordings for note in recording.notes)]
    if (left_out := len(set.union(*sources)) - len(common)) > 0:
        said.append(f"{left_out} problems that not all recordings have are left out")
    shared = tuple(_restricted(recording, common) for recording in recordings)
    points = [point for i, recording in enumerate(shared) for point in _points(recording, grid, shared[:i])]
    points += [_ran(run, common) for run in measured]
    if not points:
        raise DataError("no configuration of the grid fits the recordings; give smaller --n and --k")
    return Comparison(
        problems=tuple(common),
        recordings=shared,
        points=tuple(points),
        bootstrap=Bootstrap.of(len(common), grid.seed),
        grid=grid,
        notes=tuple(said),
    )


def _restricted(recording: Recording, problems: Sequence[str]) -> Recording:
    by_name = {pool.problem: pool for pool in recording.pools}
    return Recording(arm=recording.arm, pools=[by_name[name] for name in problems])


def _points(recording: Recording, grid: Grid, earlier: Sequence[Recording]) -> list[Point]:
    """The points of an arm; those without a verifier only for the first arm of each policy."""
    plain = all(other.arm.policy != recording.arm.policy for other in earlier)
    return subsampled(recording.arm, recording.pools, grid, plain=plain)


def _ran(run: Measured, problems: Sequence[str]) -> Point:
    found = [run.problems[name] for name in problems]
    accuracy, costs = np.array([right for right, _ in found]), np.array([cost for _, cost in found])
    return Point(setting=run.setting, accuracy=accuracy, cost=costs, measured=True)


def main_unit(points: Sequence[Point], wanted: str | None = None) -> str | None:
    """The unit of the report: the one asked for, else the first that is estimable; None where none is.

    Raises:
        DataError: the one asked for is not estimable.
    """
    if wanted is None:
        return next((unit for unit in PREFERRED if not_estimable(points, unit) is None), None)
    if (reason := not_estimable(points, wanted)) is not None:
        raise DataError(f"the cost in {wanted} is not estimable: {reason}; leave out --unit")
    return wanted


def summarize(found: Comparison, unit: str | None) -> Record:
    """Everything in the report except the recommendation, as JSON values."""
    estimable = [name for name in UNITS if not_estimable(found.points, name) is None]
    widest = max(found.recordings, key=lambda recording: recording.pools[0].size, default=None)
    return {
        "problems": len(found.problems),
        "unit": unit,
        "not_estimable": {name: not_estimable(found.points, name) for name in UNITS if name not in estimable},
        "arms": [_arm_record(recording) for recording in found.recordings],
        "pass": {str(n): _interval(found, rates) for n, rates in oracle_curve(widest.pools, found.grid).items()}
        if widest
        else {},
        "pass_policy": widest and widest.arm.policy,
        "subsampling_error": max(point.error for point in found.points),
        "points": [dict(as_record(p, found.bootstrap.share(p.accuracy))) for p in found.points],
        "names": [point.setting.name for point in found.points],
        "frontier": {name: _frontier(found, name) for name in estimable},
        "crossover": {name: _crossover(found, name) for name in estimable},
        "exponents": _exponents(found, unit) if unit else [],
        "difficulty": _difficulty(found),
        "notes": list(found.notes),
    }


def recommendation(found: Comparison, budget: Budget) -> tuple[Recommendation, Record]:
    """The recommendation for a mean budget a problem, and its record. Raises as `frontier.recommend`."""
    chosen = recommend(found.points, budget, found.bootstrap)
    setting = chosen.point.setting
    limits = {unit: value for unit in UNITS[:-1] if (value := getattr(budget, unit)) is not None}
    return chosen, {
        "budget": limits,
        "name": setting.name,
        "plain": setting.plain,
        "accuracy": chosen.accuracy.asdict(),
        "held_out": chosen.honest,
        "cost": {unit: chosen.point.mean_cost(unit) for unit in limits},
        "gain_over_plain": chosen.gain and chosen.gain.asdict(),
        "best_plain": chosen.plain and chosen.plain.setting.name,
        "not_significantly_worse": [point.setting.name for point in chosen.tied],
    }


def _arm_record(recording: Recording) -> Record:
    sizes = [pool.size for pool in recording.pools]
    return {
        "name": recording.arm.name,
        "policy": recording.arm.policy,
        "verifier": recording.arm.verifier,
        "solutions": min(sizes),
        "chains": min((pool.depth for pool in recording.pools if pool.depth), default=0),
    }


def _interval(found: Comparison, statistic: Array) -> Record:
    return dict(found.bootstrap.interval(statistic).asdict())


def _frontier(found: Comparison, unit: str) -> list[Record]:
    """The frontier's points, each with its gain over the one before."""
    records: list[Record] = []
    before: Point | None = None
    place = {id(point): i for i, point in enumerate(found.points)}
    for point in frontier(found.points, unit):
        gain = None if before is None else _interval(found, point.accuracy - before.accuracy)
        index = place[id(point)]
        records.append({"point": index, "name": point.setting.name, "cost": point.mean_cost(unit), "gain": gain})
        records[-1] |= {"accuracy": _interval(found, point.accuracy), "plain": point.setting.plain}
        before = point
    return records


def _crossover(found: Comparison, unit: str) -> Record | None:
    crossed = crossover(found.points, unit, found.bootstrap)
    if crossed is None:
        return None
    return {
        "value": crossed.value,
        "low": _finite(crossed.low),
        "high": _finite(crossed.high),
        "never": crossed.never,
        "sure": crossed.sure,
        "regime": crossed.regime and crossed.regime.setting.name,
        "regime_accuracy": crossed.regime and float(crossed.regime.accuracy.mean()),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _exponents(found: Comparison, unit: str) -> list[Record]:
    """A fit for every arm and selector that has verified, subsampled configurations."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in found.points:
        if point.setting.k and not point.measured and math.isfinite(point.mean_cost(unit)):
            groups.setdefault((point.setting.arm.name, point.setting.select), []).append(point)
    records = []
    for (arm, select), points in groups.items():
        fit = exponents(points, unit, found.bootstrap)
        records.append({"arm": arm, "select": select, "published": PUBLISHED, **asdict(fit)})
    return records


def _difficulty(found: Comparison) -> list[Record]:
    """For the first arm that was verified, or else the one with the most samples."""
    ordered = sorted(found.recordings, key=lambda each: (each.arm.verifier is None, -each.pools[0].size))
    if not ordered or len(found.problems) < 2:
        return []
    bins = by_difficulty(ordered[0].arm, ordered[0].pools, found.grid)
    return [{"arm": ordered[0].arm.name, **bin_record(each, found.bootstrap)} for each in bins]
