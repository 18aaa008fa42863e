"""Fitting the allocator's beliefs: what was put into simulated problems comes out again."""

from __future__ import annotations

import numpy as np
import pytest

from tts_engine.compute.allocator import Beliefs
from tts_engine.compute.calibrating import AnswerRecord, fit_beliefs, fit_confidence, fit_steps, minimise
from tts_engine.errors import DataError


def problems(count: int, seed: int = 0) -> list[list[AnswerRecord]]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        chance, theta, wrongs, right = random.beta(2.0, 3.0), 2.0, [], 0
        for _ in range(16):
            if random.random() < chance:
                right += 1
            elif random.random() < theta / (theta + sum(wrongs)):
                wrongs.append(1)
            else:
                wrongs[random.choice(len(wrongs), p=np.array(wrongs) / sum(wrongs))] += 1
        answers = [(True, right)] * bool(right) + [(False, n) for n in wrongs]
        made.append([_voted(truth, n, random) for truth, n in answers])
    return made


def _voted(truth: bool, draws: int, random: np.random.Generator) -> AnswerRecord:
    chance = random.beta(6.0, 1.0) if truth else random.beta(1.0, 4.0)
    votes = tuple(bool(vote) for vote in random.random(4) < chance)
    return AnswerRecord(right=truth, draws=draws, votes=votes, costs=tuple(5.0 if vote else 2.0 for vote in votes))


def test_the_parameters_are_found_again() -> None:
    beliefs = fit_beliefs(problems(600))
    assert beliefs.solve == pytest.approx((2.0, 3.0), rel=0.25)
    assert beliefs.spread == pytest.approx(2.0, rel=0.2)
    assert beliefs.right[0] / sum(beliefs.right) == pytest.approx(6 / 7, abs=0.03)
    assert beliefs.wrong[0] / sum(beliefs.wrong) == pytest.approx(1 / 5, abs=0.03)
    assert (beliefs.accept, beliefs.reject) == (5.0, 2.0)


def test_confidence_that_says_nothing_is_not_trusted() -> None:
    random = np.random.default_rng(1)
    base = fit_beliefs(problems(100))
    noise, signal = [], []
    for _ in range(150):
        truths = random.random(8) < 0.5
        names = ["right" if truth else f"wrong{random.integers(4)}" for truth in truths]
        noise.append([(n, bool(t), float(-random.random())) for n, t in zip(names, truths, strict=True)])
        signal.append([(n, bool(t), float(-random.random() - (not t))) for n, t in zip(names, truths, strict=True)])
    useless, useful = fit_confidence(base, noise, 3), fit_confidence(base, signal, 3)
    ratio = max(r / w for r, w in zip(useful.sure_right, useful.sure_wrong, strict=True)) ** useful.trust
    assert ratio > 3
    assert max(r / w for r, w in zip(useless.sure_right, useless.sure_wrong, strict=True)) ** useless.trust < 2
    assert useful.level(-0.01) == 2
    assert useful.level(-5.0) == 0
    assert useful.level(float("nan")) is None


def test_one_kind_of_answer_is_not_enough() -> None:
    with pytest.raises(DataError, match="right and on wrong"):
        fit_beliefs([[AnswerRecord(right=True, draws=3, votes=(True,))]])


def test_pattern_search_finds_the_least_value() -> None:
    found = minimise(lambda x: (np.log(x[0]) - 1) ** 2 + (np.log(x[1]) + 2) ** 2, (1.0, 1.0))
    assert np.log(found) == pytest.approx([1.0, -2.0], abs=0.01)


def test_how_often_steps_are_accepted_by_what_is_left() -> None:
    random, passes = np.random.default_rng(2), {True: 0.95, False: 0.6}
    votes = []
    for number in range(6_000):
        right, steps = number % 2 == 0, 1 + number % 3
        accepted = next((i for i in range(steps) if random.random() > passes[right] - 0.3 * (i == steps - 1)), steps)
        votes.append((right, steps, accepted))
    found = fit_steps(Beliefs(), votes, 1.5)
    assert found.turn == 1.5
    assert found.passes_right == pytest.approx((0.65, 0.95, 0.95), abs=0.03)
    assert found.passes_wrong == pytest.approx((0.3, 0.6, 0.6), abs=0.04)
    assert fit_steps(Beliefs(), [], 1.5) == Beliefs()
