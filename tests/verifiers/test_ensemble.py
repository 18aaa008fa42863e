"""Confidence, outcome rewards, ensembles and cascades, from one desk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from tts_engine.calls import Calls
from tts_engine.errors import ConfigError, VerifierError
from tts_engine.formats import prm
from tts_engine.judging import judge_candidate
from tts_engine.types import Candidate, Key, Problem, Sampling, Step, Usage
from tts_engine.verifiers import Cascade, ChatJudge, Confidence, DiscriminativePRM, Ensemble, OutcomeReward

Scripted = Callable[..., Any]
PROBLEM = Problem(id="p", prompt="1+1?")
STEPS = ("1+1=2.", "So 2.")
CANDIDATE = Candidate(
    problem=PROBLEM,
    key=Key(0),
    steps=tuple(Step(text=text, mean_logprob=math.log(sure)) for text, sure in zip(STEPS, (0.2, 0.8), strict=True)),
    mean_logprob=math.log(0.5),
)


def sure(share: float) -> tuple[str, dict[str, float]]:
    return prm.GOOD, {prm.GOOD: math.log(share), prm.BAD: math.log(1 - share)}


@pytest.mark.parametrize(("over", "value"), [("mean", 0.5), ("tail", 0.8), ("least", 0.2)])
async def test_confidence_is_read_off_the_candidate(scripted: Scripted, over: Any, value: float) -> None:  # noqa: ANN401
    calls: Calls = scripted()[1]
    judge = Confidence(over=over).open(PROBLEM, Key(0))
    verdict = await judge_candidate(judge, CANDIDATE, 8, calls)
    assert verdict.value == pytest.approx(value)
    assert verdict.usage == Usage()
    unknown = await judge_candidate(judge, replace(CANDIDATE, steps=(Step(text="a"),), mean_logprob=math.nan), 8, calls)
    assert (unknown.value, unknown.invalid_samples) == (None, 1)
    with pytest.raises(VerifierError, match="policy's own"):
        await judge(STEPS, 1, calls)


async def test_an_outcome_reward_reads_one_token_however_many_samples(scripted: Scripted) -> None:
    model, calls = scripted(sure(0.7))
    verdict = await OutcomeReward(model="verifier").open(PROBLEM, Key(0))(STEPS, 8, calls)
    assert verdict.value == pytest.approx(0.7)
    assert verdict.step_scores == ()
    assert model.asked[0].prompt == prm.step_prompt(PROBLEM.prompt, STEPS)
    model, calls = scripted(("Yes", {"Yes": math.log(0.6), "No": math.log(0.2)}))
    asked = OutcomeReward(model="verifier", good="Yes", bad="No", question="\nRight? ")
    verdict = await asked.open(PROBLEM, Key(0))(STEPS, 8, calls)
    assert verdict.value == pytest.approx(0.75)
    assert model.asked[0].prompt.continuation == ("1+1=2.\nSo 2.", "\nRight? ")


@pytest.mark.parametrize(
    ("combine", "value", "first"), [("mean", 0.6, 0.6), ("min", 0.4, 0.5), ("product", 0.32, 0.35)]
)
async def test_an_ensemble_combines_its_members(
    scripted: Scripted,
    combine: Literal["mean", "min", "product"],
    value: float,
    first: float,
) -> None:
    model, calls = scripted(sure(0.5), sure(0.4), sure(0.7), sure(0.8))
    members = [DiscriminativePRM(model="verifier", aggregation="last") for _ in range(2)]
    verdict = await Ensemble(members=members, combine=combine).open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert verdict.value == pytest.approx(value)
    assert verdict.step_scores[0] == pytest.approx(first)
    assert (len(verdict.samples), verdict.usage.calls, len(model.asked)) == (2, 4, 4)


async def test_a_member_that_says_nothing_does_not_count(scripted: Scripted) -> None:
    _, calls = scripted("no index", sure(0.7))
    judge = ChatJudge(model="verifier", sampling=Sampling())
    members = [judge, OutcomeReward(model="verifier"), Confidence()]
    opened = Ensemble(members=members).open(PROBLEM, Key(0))
    verdict = await judge_candidate(opened, CANDIDATE, 1, calls)
    assert verdict.value == pytest.approx((0.7 + 0.5) / 2)
    assert verdict.invalid_samples == 1


@pytest.mark.parametrize(("share", "asked", "value"), [(0.95, 1, 0.95), (0.05, 1, 0.05), (0.6, 2, 0.0)])
async def test_a_cascade_asks_the_dear_one_only_in_doubt(
    scripted: Scripted, share: float, asked: int, value: float
) -> None:
    model, calls = scripted(sure(share), "\\boxed{0}")
    members = [OutcomeReward(model="verifier"), ChatJudge(model="verifier", sampling=Sampling())]
    verdict = await Cascade(members=members).open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert verdict.value == pytest.approx(value)
    assert len(model.asked) == asked == verdict.usage.calls


def test_members_are_needed() -> None:
    for make in (Ensemble, Cascade):
        with pytest.raises(ConfigError, match="members"):
            make(members=[])
    with pytest.raises(ConfigError, match="low <= high"):
        Cascade(members=[Confidence()], low=0.9, high=0.1)
