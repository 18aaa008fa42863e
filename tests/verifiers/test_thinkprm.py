"""ThinkPRM on a scripted model: the prompt to the letter, parallel and sequential scaling, what cannot be parsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tts_engine.compute.ledger import Budget
from tts_engine.formats import thinkprm as form
from tts_engine.types import Completion, Finish, Key, Problem, Sampling, TokenLogprob
from tts_engine.verifiers import ThinkPRM

PROBLEM = Problem(id="p", prompt="What is {x} if x=1+1?")
STEPS = ("1+1=3.", "Step 2: so 3.")
GOOD = "Step 1: fine, \\boxed{correct}. Step 2: \\boxed{correct}."
BAD = "Step 1: no, \\boxed{incorrect}."
YES, NO = ("Yes", {"Yes": math.log(0.9), "No": math.log(0.1)}), ("No", {"No": math.log(0.8), "Yes": math.log(0.2)})

Scripted = Callable[..., Any]


def verifier(**options: Any) -> ThinkPRM:  # noqa: ANN401
    return ThinkPRM(model="verifier", sampling=Sampling(temperature=0.6), **options)


async def test_the_published_prompt_and_the_forced_question(scripted: Scripted) -> None:
    model, calls = scripted(GOOD, YES)
    verdict = await verifier().open(PROBLEM, Key(0))(STEPS, 1, calls)
    chain, question = (request.prompt for request in model.asked)
    assert chain.messages[0].content == (
        "You are given a math problem and a proposed step-by-step solution:\n\n[Math Problem]\n\nWhat is {x} if x=1+1?"
        "\n\n[Solution]\n\nStep 1: 1+1=3.\nStep 2: so 3.\n\nReview and critique each step in the proposed solution to"
        " determine whether each step is correct. If the solution is incomplete, only verify the provided steps."
    )
    assert chain.continuation == ("\nLet's verify step by step:",)
    assert chain.generation_prompt
    assert question.continuation[1:] == (GOOD, "\nIs the solution correct? ")
    assert verdict.value == pytest.approx(0.9)
    assert verdict.step_scores == (1.0, 1.0)
    assert verdict.usage.calls == 2


async def test_parallel_scaling_is_the_mean_and_each_prefix_is_read_once(scripted: Scripted) -> None:
    model, calls = scripted(GOOD, BAD, YES, NO)
    judge = verifier().open(PROBLEM, Key(0))
    verdict = await judge(STEPS, 2, calls)
    assert verdict.value == pytest.approx((0.9 + 0.2) / 2)
    assert verdict.step_scores == (0.5, 1.0)
    assert [len(sample) for sample in verdict.samples] == [2, 1]
    first = await judge(STEPS, 1, calls)
    assert first.value == pytest.approx(0.9)
    assert first.samples == verdict.samples[:1]
    assert len(model.asked) == 4


async def test_sequential_scaling_appends_the_published_phrases(scripted: Scripted) -> None:
    model, calls = scripted(GOOD, "yes.", "hm.", BAD, NO)
    verdict = await verifier(rounds=4).open(PROBLEM, Key(0))(STEPS, 1, calls)
    said = model.asked[-1].prompt.continuation
    phrases = ("\nLet me double check", "yes.", "\nLet's verify again", "hm.", "\nDid I miss something?")
    assert said[2:7] == phrases
    assert verdict.step_scores == (0.0,)
    assert verdict.first_error() == 0
    assert verdict.usage.calls == 5


async def test_a_round_that_is_cut_off_is_the_last(scripted: Scripted) -> None:
    cut = Completion(text="Step 1: hm", tokens=5, finish=Finish.LENGTH)
    model, calls = scripted(cut, YES)
    verdict = await verifier(rounds=4).open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert len(model.asked) == 2
    assert verdict.value == pytest.approx(0.9)
    assert verdict.step_scores == ()


async def test_an_answer_that_is_neither_is_invalid(scripted: Scripted) -> None:
    _, calls = scripted(GOOD, ("Maybe", {"Maybe": -0.1, "Perhaps": -3.0}))
    verdict = await verifier().open(PROBLEM, Key(0))(STEPS, 1, calls)
    assert (verdict.value, verdict.invalid_samples) == (None, 1)


async def test_under_a_budget_samples_are_taken_in_turn_until_the_money_ends(scripted: Scripted) -> None:
    model, calls = scripted(*(GOOD, YES) * 8, budget=Budget(tokens=160))
    verdict = await verifier(tokens=50).open(PROBLEM, Key(0))(STEPS, 8, calls)
    assert 1 <= len(verdict.samples) < 8
    assert calls.scope.total.tokens <= 160
    assert len(model.asked) >= 2 * len(verdict.samples)


def test_a_missing_word_takes_the_smallest_logprob_and_case_does_not_matter() -> None:
    space = TokenLogprob(text=" ", logprob=0.0, alternatives={" ": 0.0, "(": -9.0})
    token = TokenLogprob(text=" yes", logprob=math.log(0.5), alternatives={"Yes": math.log(0.25), "?": math.log(0.05)})
    assert form.share_of_yes((space, token)) == pytest.approx(0.75 / 0.8)
    assert form.share_of_yes((space,)) is None
