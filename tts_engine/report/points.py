"""Configurations and what they are worth: accuracy and cost of each, problem by problem, so that all are paired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tts_engine.report.intervals import Interval, wilson
from tts_engine.report.pools import UNITS, Arm, Array, Pool
from tts_engine.report.subsample import DRAWS, Draws, Estimate, cost, majority, oracle

SELECTORS = ("majority", "best", "weighted", "pessimistic", "confidence")
RESAMPLES = 4_000
TAILS = (0.025, 0.975)
PLAIN = "self-consistency"
"""The configurations that verified ones must beat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One configuration: N solutions (or the width of a search), K judgements of each, and how the answer is chosen.

    `params` are further parameters of a strategy that was run; subsampled ones have none.
    """

    arm: Arm
    strategy: str
    n: int
    k: int
    select: str
    params: tuple[tuple[str, Any], ...] = ()

    @property
    def verified(self) -> bool:
        """Whether a verifier was asked."""
        return self.k > 0

    @property
    def plain(self) -> bool:
        """Whether it is a plain majority vote, or a single sample."""
        return self.strategy == PLAIN

    @property
    def name(self) -> str:
        """As people read it."""
        if self.plain:
            return f"{self.arm.policy}: majority of {self.n}" if self.n > 1 else f"{self.arm.policy}: one sample"
        if self.select == "confidence":
            return f"{self.arm.policy}: vote of {self.n} by own confidence"
        extra = "".join(f" {key}={value}" for key, value in self.params)
        counts = (f" N={self.n}" if self.n else "") + (f" K={self.k}" if self.k else "")
        who = self.arm.name if self.k else self.arm.policy
        return f"{who}: {self.strategy}{extra}{counts} {self.select}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A configuration with what it gives.

    Attributes:
        accuracy: [problems] chance to be right on each problem.
        cost: [problems, units]; nan where it is not known.
        error: standard error of the mean accuracy that random subsets leave (0: exact).
        measured: it was run at this setting rather than subsampled.
    """

    setting: Setting
    accuracy: Array
    cost: Array
    error: float = 0.0
    measured: bool = False

    def mean_cost(self, unit: str) -> float:
        """Mean cost of a problem; nan where it is not known."""
        return float(self.cost[:, UNITS.index(unit)].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Which configurations are evaluated; those that the recordings are too small for are left out.

    Empty, `n` takes 1, 2, 3, 4, 6, 8, 12, ... and `k` takes 1, 2, 4, ... up to what was recorded.
    """

    n: Sequence[int] = ()
    k: Sequence[int] = ()
    selectors: Sequence[str] = SELECTORS
    draws: int = DRAWS
    seed: int = 0


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**i for i in range(most.bit_length())] if most else []


def ladder(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to `most` and `most` itself: two steps to a doubling.

    >>> ladder(20)
    [1, 2, 3, 4, 6, 8, 12, 16, 20]
    """
    return sorted({n for power in powers(most) for n in (power, 3 * power // 2) if n <= most} | {most})


def subsampled(arm: Arm, pools: Sequence[Pool], grid: Grid, *, plain: bool = True) -> list[Point]:
    """Every configuration of the grid that the pools of one arm hold, in one order of problems.

    Args:
        plain: evaluate those without a verifier too (once for every policy).
    """
    settings = _settings(arm, pools, grid, plain=plain)
    found = [_evaluated(pool, settings, grid) for pool in pools] if settings else []
    return [
        Point(
            setting=setting,
            accuracy=np.array([estimates[i].value for estimates, _ in found]),
            cost=np.array([costs[i] for _, costs in found]),
            error=math.sqrt(sum(estimates[i].error ** 2 for estimates, _ in found)) / len(found),
        )
        for i, setting in enumerate(settings)
    ]


def _settings(arm: Arm, pools: Sequence[Pool], grid: Grid, *, plain: bool) -> list[Setting]:
    """What can be evaluated."""
    most = min(pool.size for pool in pools)
    chains = min((pool.depth for pool in pools if pool.depth), default=0)
    ns = [n for n in (grid.n or ladder(most)) if n <= most]
    ks = [k for k in (grid.k or powers(chains)) if 0 < k <= chains] if arm.each == 1 else [1] * bool(chains)
    if all(pool.answer.max() < 0 for pool in pools):  # nothing to vote on, though it may be right
        return [Setting(arm=arm, strategy=PLAIN, n=1, k=0, select="oracle")]
    found: list[Setting] = []
    if plain and "majority" in grid.selectors:
        found += [Setting(arm=arm, strategy=PLAIN, n=n, k=0, select="majority") for n in ns]
    if plain and "confidence" in grid.selectors and not any(np.isnan(pool.sure).any() for pool in pools):
        found += [Setting(arm=arm, strategy="best-of-n", n=n, k=0, select="confidence") for n in ns]
    rules = [how for how in grid.selectors if how not in ("majority", "confidence")]
    every = [(n, k * arm.each, how) for k in ks for n in ns for how in rules]
    return found + [Setting(arm=arm, strategy="best-of-n", n=n, k=k, select=how) for n, k, how in every]


def _evaluated(pool: Pool, settings: Sequence[Setting], grid: Grid) -> tuple[list[Estimate], list[Array]]:
    """One problem at every setting: whether the answer is right, and the cost."""
    arm = settings[0].arm
    draws = Draws(pool, arm.aggregation, grid.draws, grid.seed)
    closed = {"majority": majority, "oracle": oracle}
    estimates, costs = [], []
    for setting in settings:
        chains = setting.k // arm.each
        exact = closed.get(setting.select)
        estimates.append(exact(pool, setting.n) if exact else draws.select(setting.select, setting.n, chains))
        costs.append(cost(pool, setting.n, chains))
    return estimates, costs


def oracle_curve(pools: Sequence[Pool], grid: Grid) -> dict[int, Array]:
    """For each n, [problems] the chance that one of n samples is right: pass@n, what no selector can exceed."""
    most = min(pool.size for pool in pools)
    return {n: np.array([oracle(pool, n).value for pool in pools]) for n in (grid.n or ladder(most)) if n <= most}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Percentile intervals over problems; all statistics share the resamples, so differences are paired.

    `counts`: [resamples, problems] how often each problem was drawn.
    """

    counts: Array = field(repr=False)

    @classmethod
    def of(cls, problems: int, seed: int = 0, resamples: int = RESAMPLES) -> Bootstrap:
        """Resamples of that many problems."""
        random = np.random.default_rng(seed)
        return cls(random.multinomial(problems, np.full(problems, 1 / problems), size=resamples).astype(float))

    @classmethod
    def grouped(cls, groups: Sequence[str], seed: int = 0, resamples: int = RESAMPLES) -> Bootstrap:
        """Resamples of whole groups of rows, such as the seeds of a problem; `groups` names that of each row."""
        names, places = np.unique(np.array(groups), return_inverse=True)
        return cls(cls.of(len(names), seed, resamples).counts[:, places])

    def means(self, statistic: Array) -> Array:
        """[resamples, ...] means of [problems, ...]; problems in which it is nan do not count."""
        known = ~np.isnan(statistic)
        found: Array = (self.counts @ np.where(known, statistic, 0.0)) / np.maximum(self.counts @ known, 1.0)
        return found

    def interval(self, statistic: Array) -> Interval:
        """Mean of a per-problem statistic and its 95 % interval."""
        low, high = np.quantile(self.means(statistic), TAILS)
        return Interval(value=float(np.nanmean(statistic)), low=float(low), high=float(high))

    def ratio(self, above: Array, below: Array) -> Interval:
        """A ratio of sums, of what each problem adds above and below the line; 0 where nothing is below it."""
        sums, whole = self.counts @ below, below.sum()
        low, high = np.quantile(np.divide(self.counts @ above, sums, out=np.zeros_like(sums), where=sums > 0), TAILS)
        return Interval(value=float(above.sum() / whole) if whole > 0 else 0.0, low=float(low), high=float(high))

    def share(self, statistic: Array) -> Interval:
        """The interval of an accuracy. Where all problems are right, or all wrong, resampling knows no doubt: there it
        is Wilson's."""
        known = statistic[~np.isnan(statistic)]
        if known.size and (known == known[0]).all() and known[0] in (0.0, 1.0):
            return wilson(int(known.sum()), known.size)
        return self.interval(statistic)


def as_record(point: Point, interval: Interval) -> Mapping[str, Any]:
    """A line of points.jsonl and points.csv."""
    setting = point.setting
    return {
        "arm": setting.arm.name,
        "policy": setting.arm.policy,
        "verifier": setting.arm.verifier if setting.k else None,
        "strategy": setting.strategy,
        **dict(setting.params),
        "n": setting.n,
        "k": setting.k,
        "select": setting.select,
        "problems": len(point.accuracy),
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
        "subsampling_error": point.error,
        "measured": point.measured,
        **{unit: None if np.isnan(mean := point.mean_cost(unit)) else mean for unit in UNITS},
    }
