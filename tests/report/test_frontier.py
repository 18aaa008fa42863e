"""Frontier, crossover, advice and exponents on points whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tts_engine.compute.budget import Budget
from tts_engine.errors import DataError, UsageError
from tts_engine.report.difficulty import bin_record, by_difficulty
from tts_engine.report.exponents import exponents
from tts_engine.report.frontier import crossover, frontier, not_estimable, recommend
from tts_engine.report.points import PLAIN, Bootstrap, Grid, Point, Setting, ladder, subsampled
from tts_engine.report.pools import UNITS, Arm, Pool, Sample, make_pool, units

PROBLEMS = 200
ARM = Arm(name="judge", policy="writer", verifier="judge")
BOOTSTRAP = Bootstrap.of(PROBLEMS)


def point(n: int, k: int, share: float, tokens: float, arm: Arm = ARM, **cost: float) -> Point:
    """A configuration that is right on the first `share` of the problems."""
    right = (np.arange(PROBLEMS) < share * PROBLEMS).astype(float)
    setting = Setting(arm=arm, strategy="best-of-n" if k else PLAIN, n=n, k=k, select="weighted" if k else "majority")
    return Point(setting=setting, accuracy=right, cost=np.tile(units({"tokens": tokens, **cost}), (PROBLEMS, 1)))


SMALL = [
    point(1, 0, 0.5, 10),
    point(4, 0, 0.6, 40),
    point(1, 1, 0.5, 50),
    point(2, 1, 0.59, 60),
    point(8, 0, 0.62, 80),
    point(4, 1, 0.75, 100),
    point(4, 2, 0.75, 180),
]


def test_the_frontier_holds_exactly_what_nothing_cheaper_equals() -> None:
    found = frontier(SMALL, "tokens")
    expected = [
        p
        for p in SMALL
        if not any(
            o.mean_cost("tokens") < p.mean_cost("tokens") and o.accuracy.mean() >= p.accuracy.mean() for o in SMALL
        )
    ]
    assert found == expected


def test_an_unknown_cost_is_not_zero() -> None:
    assert not_estimable(SMALL, "dollars") == "it was not recorded"
    with pytest.raises(DataError, match="cost in dollars is not estimable: it was not recorded; use tokens"):
        frontier(SMALL, "dollars")
    with pytest.raises(DataError, match="no frontier"):
        frontier([], "tokens")


def test_a_configuration_of_unknown_cost_is_not_on_the_frontier() -> None:
    assert frontier([*SMALL, point(16, 8, 0.99, math.nan)], "tokens") == frontier(SMALL, "tokens")


def test_tokens_of_different_vocabularies_are_not_compared() -> None:
    other = Arm(name="big", policy="big", vocabularies=(32_000,))
    mixed = [
        point(1, 0, 0.5, 10, Arm(name="a", policy="a", vocabularies=(497,)), flops=1e6),
        point(1, 0, 0.6, 9, other),
    ]
    assert "different tokenizers (497, 32000 tokens)" in str(not_estimable(mixed, "tokens"))
    with pytest.raises(DataError, match="compare FLOPs; use flops"):
        frontier(mixed, "tokens")


def test_the_crossover_is_where_verifying_starts_to_win_for_good() -> None:
    found = crossover(SMALL, "tokens", BOOTSTRAP)
    assert found is not None
    assert (found.value, found.sure) == (100, 100)
    assert found.low <= 100 <= found.high
    assert found.regime is not None
    assert found.regime.setting.n == 8


def test_a_verifier_that_never_wins_has_no_crossover() -> None:
    found = crossover([point(1, 0, 0.5, 10), point(1, 1, 0.4, 20)], "tokens", BOOTSTRAP)
    assert found is not None
    assert (found.value, found.sure, found.high, found.never) == (None, None, math.inf, 1.0)
    assert crossover([point(1, 0, 0.5, 10)], "tokens", BOOTSTRAP) is None


@pytest.mark.parametrize(("budget", "n", "k"), [(10, 1, 0), (99, 8, 0), (100, 4, 1), (10_000, 4, 1)])
def test_the_recommendation_is_the_best_that_the_budget_pays(budget: int, n: int, k: int) -> None:
    chosen = recommend(SMALL, Budget(tokens=budget), BOOTSTRAP)
    assert (chosen.point.setting.n, chosen.point.setting.k) == (n, k)
    assert chosen.point.setting.plain == (k == 0)
    assert (chosen.gain is None) == (k == 0)
    if chosen.gain:
        assert chosen.gain.value == pytest.approx(0.75 - 0.62)
    assert chosen.honest == pytest.approx(chosen.accuracy.value)  # one is best on every fold


def test_a_budget_has_to_be_payable() -> None:
    with pytest.raises(
        UsageError, match=r"tokens=9 is below the cheapest configuration \(writer: one sample: 10 tokens"
    ):
        recommend(SMALL, Budget(tokens=9), BOOTSTRAP)
    with pytest.raises(UsageError, match="limits nothing"):
        recommend(SMALL, Budget(), BOOTSTRAP)
    with pytest.raises(DataError, match="not estimable"):
        recommend(SMALL, Budget(dollars=1.0), BOOTSTRAP)


def test_the_held_out_accuracy_takes_out_the_luck_of_the_choice() -> None:
    random = np.random.default_rng(0)
    noise = [point(n, 0, 0, 10) for n in range(1, 60)]
    lucky = [Point(setting=p.setting, accuracy=random.integers(0, 2, PROBLEMS) * 1.0, cost=p.cost) for p in noise]
    chosen = recommend(lucky, Budget(tokens=10), BOOTSTRAP)
    assert chosen.accuracy.value > 0.55
    assert abs(chosen.honest - 0.5) < 0.05


def grown(a: float, b: float) -> list[Point]:
    """Points of which (N, K) = (C^a, C^b) is the best at cost C = N K."""
    found = []
    for n in (2**i for i in range(9)):
        for k in (2**i for i in range(9)):
            miss = (math.log2(n) * b - math.log2(k) * a) ** 2
            found.append(point(n, k, 0.3 + 0.03 * math.log2(n * k) - 0.005 * miss, n * k))
    return found


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.75, 0.25)])
def test_exponents_of_a_known_law_are_found(a: float, b: float) -> None:
    fit = exponents(grown(a, b), "tokens", BOOTSTRAP)
    assert fit.n is not None
    assert fit.k is not None
    assert fit.n.value == pytest.approx(a, abs=0.12)
    assert fit.k.value == pytest.approx(b, abs=0.12)
    assert fit.n.low - 1e-9 <= fit.n.value <= fit.n.high + 1e-9
    assert fit.edge > 0  # the largest budgets say more about the grid


def test_exponents_say_why_they_are_not_estimable() -> None:
    assert exponents([point(1, 0, 0.5, 10)], "tokens", BOOTSTRAP).reason == "nothing was verified"
    assert "three values of N" in exponents(SMALL[2:4], "tokens", BOOTSTRAP).reason


def test_intervals_are_paired() -> None:
    first, second = point(1, 0, 0.5, 1).accuracy, point(2, 0, 0.6, 1).accuracy
    apart = BOOTSTRAP.interval(second - first)
    assert apart.value == pytest.approx(0.1)
    assert apart.high - apart.low < BOOTSTRAP.interval(second).high - BOOTSTRAP.interval(second).low
    half = np.where(np.arange(PROBLEMS) < 50, 1.0, np.nan)
    assert BOOTSTRAP.interval(half).value == 1.0


@pytest.fixture
def pools() -> list[Pool]:
    """Problems of two kinds, 90 % and 20 % right; a judge that knows."""
    random = np.random.default_rng(1)

    def sample(rate: float, i: int) -> Sample:
        right = bool(random.random() < rate)
        return Sample(text=f"{i}", answer="7" if right else "8", right=right, chains=[[0.9 if right else 0.2]],
                      generate={"tokens": 10.0}, verify=[{"tokens": 5.0}])  # fmt: skip

    return [make_pool(f"p{j}", [sample(0.9 if j % 2 else 0.2, i) for i in range(16)]) for j in range(60)]


def test_a_grid_evaluates_what_the_recordings_hold(pools: list[Pool]) -> None:
    points = subsampled(ARM, pools, Grid(n=(1, 4, 16, 64), k=(1, 2)))
    assert {(p.setting.n, p.setting.k) for p in points} == {(n, k) for n in (1, 4, 16) for k in (0, 1)}
    tokens = {(p.setting.n, p.setting.k): p.mean_cost("tokens") for p in points}
    assert tokens == {(n, k): pytest.approx(n * (10 + 5 * k)) for n in (1, 4, 16) for k in (0, 1)}
    best = {p.setting.n: p.accuracy.mean() for p in points if p.setting.select == "best"}
    assert best[1] < best[4] < best[16]
    assert ladder(6) == [1, 2, 3, 4, 6]


def test_difficulty_is_judged_on_other_samples(pools: list[Pool]) -> None:
    bins = by_difficulty(ARM, pools, Grid())
    assert sum(each.problems for each in bins) == len(pools)
    assert bins[0].high < bins[-1].low
    # regression to the mean: the hardest bin's evaluated samples are better than those that put it there
    assert bins[0].pass1 == pytest.approx(0.2, abs=0.1)
    assert bins[-1].pass1 == pytest.approx(0.9, abs=0.1)
    record = bin_record(bins[0], Bootstrap.of(len(pools)))
    assert record["verified"]["value"] > record["plain"]["value"]
    assert record["gain"]["low"] > 0
    assert by_difficulty(ARM, [pool.part([0]) for pool in pools], Grid()) == []


def test_units_are_those_of_budgets_and_characters() -> None:
    assert set(UNITS) == {"tokens", "flops", "seconds", "dollars", "chars"}
    make: Callable[..., Point] = point
    assert make(1, 0, 0.5, 3, chars=7).mean_cost("chars") == 7


def test_a_perfect_score_leaves_doubt() -> None:
    boot = Bootstrap.of(10)
    assert boot.interval(np.ones(10)).low == 1.0
    assert boot.share(np.ones(10)).low == pytest.approx(0.722, abs=1e-3)
    assert boot.share(np.zeros(10)).high == pytest.approx(0.278, abs=1e-3)
    half = np.array([0.0, 1.0] * 5)
    assert boot.share(half) == boot.interval(half)


def test_the_rows_of_a_group_are_drawn_together() -> None:
    names = ["b", "a", "b", "a"]
    boot = Bootstrap.grouped(names, seed=3)
    one_a_group = Bootstrap.of(2, seed=3)
    assert (boot.counts == one_a_group.counts[:, [1, 0, 1, 0]]).all()
    rows = np.array([0.0, 1.0, 4.0, 3.0])
    assert boot.means(rows) == pytest.approx(one_a_group.means(np.array([2.0, 2.0])))
    assert boot.interval(rows).value == 2.0


def test_a_ratio_is_of_sums() -> None:
    boot = Bootstrap.of(200)
    below = np.random.default_rng(0).uniform(1, 9, 200)
    same = boot.ratio(0.5 * below, below)
    assert (same.value, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))
    counts = np.tile([1.0, 0.0], 100)
    assert boot.ratio(counts, np.ones(200)) == boot.interval(counts)
    assert boot.ratio(np.zeros(200), np.zeros(200)).high == 0.0
