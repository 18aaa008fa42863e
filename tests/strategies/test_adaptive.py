"""Adaptive self-consistency: the posterior by hand and by integration, stopping, cancellation."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.conftest import Digits, MakeSearch
from tts_engine.calls import Calls
from tts_engine.compute.stopping import beta_above_half
from tts_engine.strategies import STRATEGIES
from tts_engine.strategies.adaptive import decided, risk
from tts_engine.types import Candidate, Key


@dataclass
class Sure(Digits):
    """Gives the answer 0 in `sure` of 100 cases, else one of nine others."""

    sure: int = 90
    started: int = 0
    ended: int = 0

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        self.started += 1
        child = await super().__call__(node, key, calls, whole=whole)
        for _ in range(key.int() % 50):
            await asyncio.sleep(0)
        self.ended += 1
        draw = key.child("answer").int()
        answer = "0" if draw % 100 < self.sure else str(draw // 100 % 9 + 1)
        return Candidate(problem=node.problem, key=key, steps=child.steps, done=True, answer=answer, parent=node.key)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_the_posterior_is_the_integral(a: int, b: int) -> None:
    x = (np.arange(20_000) + 0.5) / 20_000
    density = x ** (a - 1) * (1 - x) ** (b - 1)
    assert beta_above_half(a, b) == pytest.approx(float(density[x > 0.5].sum() / density.sum()), abs=1e-4)


def test_the_risk_is_the_chance_that_another_answer_leads() -> None:
    """Against a Monte Carlo estimate from the Dirichlet posterior; the union bound is above it."""
    draws = np.random.default_rng(0).dirichlet([7, 3, 2, 1], size=40_000)
    wrong = float((draws.argmax(axis=1) != 0).mean())
    pairwise = float((draws[:, 1] > draws[:, 0]).mean())
    assert risk([6, 2], "beta") == pytest.approx(pairwise, abs=0.01)
    assert wrong <= risk([6, 2, 1], "dirichlet") <= wrong + 0.05


def test_stopping_by_hand() -> None:
    assert not decided([], 5, "beta", 0.9)
    assert decided([], 0, "beta", 0.9)
    assert decided([3, 1], 1, "beta", 0.999999)
    assert not decided([3, 2], 1, "beta", 0.999999)
    assert decided([4], 100, "beta", 0.95)
    assert not decided([3], 100, "beta", 0.95)
    assert not decided([4], 100, "dirichlet", 0.99)


async def test_sure_policies_stop_early_and_unsure_ones_go_on(make_search: MakeSearch) -> None:
    numbers = {}
    for sure in (100, 80, 20):
        outcome = await STRATEGIES["adaptive-self-consistency"](make_search(Sure(sure=sure)), n=40, wave=1)
        numbers[sure] = len(outcome.candidates)
    assert numbers[100] == 4
    assert numbers[100] <= numbers[80] < numbers[20]


async def test_early_stops_seldom_change_the_answer(make_search: MakeSearch) -> None:
    same = 0
    for seed in range(25):
        full = await STRATEGIES["self-consistency"](make_search(Sure(sure=60), seed=seed), n=40)
        stopped = await STRATEGIES["adaptive-self-consistency"](make_search(Sure(sure=60), seed=seed), n=40)
        same += full.answer == stopped.answer
    assert same >= 23


async def test_eager_draws_count_in_program_order_and_the_rest_is_cancelled(make_search: MakeSearch) -> None:
    answers = Counter()
    for seed in range(8):
        policy = Sure(sure=95, order=random.Random(seed))
        outcome = await STRATEGIES["adaptive-self-consistency"](make_search(policy), n=40, eager=True)
        await asyncio.sleep(0)
        assert policy.started == 40
        assert policy.ended < 40
        answers[tuple(str(judged.candidate.key) for judged in outcome.candidates)] += 1
    assert len(answers) == 1
    single = await STRATEGIES["adaptive-self-consistency"](make_search(Sure(sure=95)), n=40, wave=1)
    assert tuple(str(judged.candidate.key) for judged in single.candidates) in answers
