"""Refinement, revision and budget forcing: what is fed back, what is kept, and the control at equal cost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.strategies.conftest import SECRET, Digits, MakeSearch, Truth
from tts_engine import Engine
from tts_engine.backends.arithmetic import Task
from tts_engine.errors import TTSError
from tts_engine.judging import Critique, critique_of
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Candidate, Key, Outcome, Role, Step, StepJudgement, Verdict
from tts_engine.verifiers.verdicts import make_verdict

RIGHT = "".join(map(str, SECRET))


async def test_the_first_bad_step_and_its_analysis_are_fed_back(make_search: MakeSearch) -> None:
    policy = Digits()
    await STRATEGIES["refine"](make_search(policy), n=6, rounds=2, samples=1)
    assert policy.critiques
    for text, step, critique in policy.critiques:
        wrong = [i for i, (digit, right) in enumerate(zip(text.split(), SECRET, strict=True)) if int(digit) != right]
        assert step == text.split()[wrong[0]]
        assert critique == f"{wrong[0]} is not {step}"


async def test_a_refinement_is_kept_only_if_the_verifier_prefers_it(make_search: MakeSearch) -> None:
    rounds = [await STRATEGIES["refine"](make_search(seed=5), n=8, rounds=r, samples=1) for r in (1, 3, 60)]
    values = [[judged.verdict.value for judged in outcome.candidates if judged.verdict] for outcome in rounds]
    for fewer, more in itertools.pairwise(values):
        assert sum(map(float, fewer)) <= sum(map(float, more))  # type: ignore[arg-type]
    assert rounds[-1].correct is True
    assert all(judged.candidate.answer == RIGHT for judged in rounds[-1].candidates)


async def test_a_solution_without_a_bad_step_is_left_alone(make_search: MakeSearch) -> None:
    class Content(Truth):
        async def __call__(self, steps: tuple[str, ...], *rest: Any) -> Verdict:  # noqa: ANN401
            return make_verdict([tuple(StepJudgement(score=0.8) for _ in steps)], "min")

    policy = Digits()
    outcome = await STRATEGIES["refine"](make_search(policy, Content()), n=3, samples=1)
    assert len(policy.made) == 3
    assert Role.REFINE not in outcome.usage


async def test_the_control_costs_what_the_refinements_cost(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["refine"](make_search(), n=4, rounds=3, samples=2, control=True)
    control = outcome.tree["graph"]["control"]
    assert control["refinements"] > 0
    assert control["cost_resampled"] == pytest.approx(control["cost_refined"], rel=0.2)
    assert control["correct"] is (control["answer"] == RIGHT)
    plain = await STRATEGIES["refine"](make_search(), n=4, rounds=3, samples=2)
    assert (plain.answer, plain.candidates) == (outcome.answer, outcome.candidates)


async def test_refining_what_can_be_mended_beats_its_control(make_search: MakeSearch) -> None:
    """Here a critique helps by construction: one digit is drawn anew and the others stay."""
    refined = resampled = 0
    for seed in range(40):
        outcome = await STRATEGIES["refine"](make_search(seed=seed), n=1, rounds=6, samples=1, control=True)
        refined += outcome.correct is True
        resampled += outcome.tree["graph"]["control"]["correct"] is True
    assert refined > resampled


async def test_revisions_are_chains_and_all_attempts_vote(make_search: MakeSearch) -> None:
    search = make_search()
    outcome = await STRATEGIES["revise"](search, n=3, rounds=2, samples=1)
    assert len(outcome.candidates) == 9
    assert sorted(judged.candidate.key.path.__len__() for judged in outcome.candidates) == [2] * 3 + [3] * 3 + [4] * 3
    assert {degree for _, degree in search.tree.out_degree()} == {0, 1, 3}


async def test_budget_forcing_goes_on_from_the_last_end(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["budget-forcing"](make_search(), n=4, rounds=3)
    assert {len(judged.candidate.key.path) for judged in outcome.candidates} == {5}
    assert len(outcome.candidates) == 4


async def test_refining_the_winners_of_a_beam_never_lowers_their_values(make_search: MakeSearch) -> None:
    options = {"n": 8, "width": 2, "samples": 1}
    plain = await STRATEGIES["beam"](make_search(seed=3), **options)
    mended = await STRATEGIES["beam-refine"](make_search(seed=3), winners=8, rounds=4, **options)
    assert len(mended.candidates) == len(plain.candidates)
    assert total(mended) >= total(plain)


def total(outcome: Outcome) -> float:
    return sum(judged.verdict.value or 0.0 for judged in outcome.candidates if judged.verdict)


async def test_a_policy_that_cannot_refine_says_so(make_search: MakeSearch) -> None:
    class Plain:
        async def __call__(self, node: Candidate, key: Key, *_: Any, **__: Any) -> Candidate:  # noqa: ANN401
            step = Step(text="0")
            return Candidate(problem=node.problem, key=key, steps=(step,) * 3, done=True, answer="000")

    with pytest.raises(TTSError, match="Plain cannot refine"):
        await STRATEGIES["refine"](make_search(Plain()), samples=1)


def test_critiques_come_from_a_sample_that_agrees() -> None:
    def said(*scores: float | None) -> tuple[StepJudgement, ...]:
        return tuple(StepJudgement(score=score, analysis=f"{score}") for score in scores)

    assert critique_of(None) is None
    assert critique_of(make_verdict([said(0.9, 0.8)], "min")) is None
    verdict = make_verdict([said(0.9, 0.7), said(0.9, 0.1), said(0.9, 0.2)], "min")
    assert critique_of(verdict) == Critique(step=1, text="0.1")
    assert critique_of(verdict, threshold=0.2) is None


@pytest.mark.parametrize("strategy", ["refine", "revise", "budget-forcing", "beam-refine"])
async def test_language_models_refine_and_resume(strategy: str) -> None:
    """The whole engine on the simulated task: prompts are rendered, answers found, calls charged to their roles."""
    task = {"error_rate": 0.4}
    model = {"backend": "simulated", "options": {"task": task}}
    settings = {
        "policy": {**model, "model": "policy"},
        "verifier": {**model, "model": "verifier", "samples": 2, "params": {"mode": "analysis"}},
        "strategy": {"name": strategy, "n": 4},
    }
    problems = [Task(**task).problem(Key(1, (i,)), steps=4) for i in range(3)]
    async with Engine.from_config(settings) as engine:
        outcomes = [outcome async for outcome in engine.run(problems)]
    assert all(outcome.answer is not None and not outcome.failures for outcome in outcomes)
    refined = sum(outcome.usage.get(Role.REFINE) is not None for outcome in outcomes)
    assert (refined > 0) == (strategy != "budget-forcing")
    if strategy == "budget-forcing":
        assert any("Wait, let me" in judged.candidate.text for judged in outcomes[0].candidates)
