"""Particle filtering on a toy whose posterior can be written down."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.conftest import DIGITS, SECRET, Digits, MakeSearch, Truth
from tests.strategies.test_levels import Uneven
from tts_engine.strategies import STRATEGIES
from tts_engine.strategies.particles import Particle, effective, filtered, resampled
from tts_engine.types import Candidate, Judged, Key, Problem

RIGHT = "".join(map(str, SECRET))


def chance(digits: tuple[int, ...], power: float) -> float:
    """Posterior, up to its sum: all digits are equally likely, each right one scores 0.9, each wrong one 0.1."""
    return math.prod((0.9 if digit == right else 0.1) ** power for digit, right in zip(digits, SECRET, strict=True))


@pytest.mark.parametrize(("threshold", "power"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.5, 2.0)])
async def test_weights_and_evidence_are_unbiased(make_search: MakeSearch, threshold: float, power: float) -> None:
    """Over independent runs, the mean of (weight of the right answer) / n is its unnormalised posterior, and the mean
    of the evidence its sum; both within four standard errors."""
    every = list(itertools.product(range(DIGITS), repeat=len(SECRET)))
    evidence = math.fsum(chance(digits, power) for digits in every) / len(every)
    found, sums = [], []
    for seed in range(60):
        particles = await filtered(make_search(seed=seed), 12, 1, threshold, power)
        right = [particle.weight for particle in particles if particle.judged.candidate.answer == RIGHT]
        found.append(math.fsum(right) / 12)
        sums.append(math.fsum(particle.weight for particle in particles) / 12)
    assert within(found, chance(SECRET, power) / len(every))
    assert within(sums, evidence)


def within(draws: list[float], truth: float) -> bool:
    mean = math.fsum(draws) / len(draws)
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in draws)) / len(draws)
    return abs(mean - truth) < 4 * error


async def test_many_particles_give_the_posterior(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["particle-filter"](make_search(Digits()), n=300, samples=1)
    assert outcome.answer == RIGHT
    every = itertools.product(range(DIGITS), repeat=len(SECRET))
    posterior = chance(SECRET, 1.0) / math.fsum(chance(digits, 1.0) for digits in every)
    particles = await filtered(make_search(), 300, 1, 0.5, 1.0)
    right = math.fsum(p.weight for p in particles if p.judged.candidate.answer == RIGHT)
    assert right / math.fsum(p.weight for p in particles) == pytest.approx(posterior, rel=0.25)


async def test_the_evidence_is_on_the_tree(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["particle-filter"](make_search(), n=200, samples=1)
    assert outcome.tree["graph"]["evidence"] == pytest.approx((0.9 + 4 * 0.1) ** 3 / 125, rel=0.25)


async def test_without_verdicts_it_is_plain_sampling(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["particle-filter"](make_search(judge=Truth(broken=True)), n=30, samples=1)
    assert len(outcome.candidates) == 30
    assert outcome.tree["graph"]["evidence"] == pytest.approx(1.0)


async def test_solutions_of_uneven_length_wait_for_each_other(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["particle-filter"](make_search(Uneven()), n=20, samples=1)
    assert outcome.answer is not None
    assert len({judged.candidate.depth for judged in outcome.candidates}) >= 1


def particle(name: int, weight: float) -> Particle:
    candidate = Candidate(problem=Problem(id="p", prompt=""), key=Key(name))
    return Particle(judged=Judged(candidate=candidate), weight=weight)


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=12),
    n=st.integers(1, 20),
    u=st.floats(0, 1, exclude_max=True),
)
def test_resampling_takes_the_share_rounded_up_or_down(weights: list[float], n: int, u: float) -> None:
    particles = [particle(i, weight) for i, weight in enumerate(weights)]
    total = math.fsum(weights)
    taken = resampled(particles, n, u)
    if total < 1e-9:
        return
    assert math.isclose(math.fsum(p.weight for p in taken), total)
    counts = Counter(p.key.seed for p in taken)
    for i, weight in enumerate(weights):
        assert math.floor(n * weight / total - 1e-6) <= counts[i] <= math.ceil(n * weight / total + 1e-6)


def test_effective_numbers_by_hand() -> None:
    assert effective([particle(0, 1.0), particle(1, 1.0)]) == 2
    assert effective([particle(0, 1.0), particle(1, 0.0)]) == 1
    assert effective([particle(0, 0.0)]) == 0
    assert resampled([particle(0, 0.0)], 4, 0.5) == []
