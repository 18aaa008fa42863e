"""The main job on the shipped checkpoints: a real policy searched with a real generative verifier."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from tts_engine import Engine, Outcome
from tts_engine.backends.cores import pick_dtype
from tts_engine.problems import load_problems
from tts_engine.selection import select

PROBLEMS = load_problems("arith-dev")[:40]


async def solved(strategy: dict[str, Any], samples: int = 4, problems: int = 40, **config: Any) -> list[Outcome]:  # noqa: ANN401
    settings = {"strategy": strategy, "verifier": {"samples": samples, **config.pop("verifier", {})}, **config}
    async with Engine.from_config(settings) as engine:
        results = {outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS[:problems])}
    return [results[problem.id] for problem in PROBLEMS[:problems]]


@pytest.fixture(scope="module")
def best_of_8() -> list[Outcome]:
    return asyncio.run(solved({"name": "best-of-n", "n": 8}))


def test_the_verifier_finds_more_right_answers_than_voting(best_of_8: list[Outcome]) -> None:
    weighted = sum(outcome.correct is True for outcome in best_of_8)
    majority = sum(select(o.candidates, "majority").answer == o.problem.answer for o in best_of_8)
    one = sum(j.candidate.answer == o.problem.answer for o in best_of_8 for j in o.candidates) / 8
    assert weighted > majority
    assert weighted > one + 4


def test_judgements_rest_on_checks_that_were_executed(best_of_8: list[Outcome]) -> None:
    turns = [
        turn
        for outcome in best_of_8
        for judged in outcome.candidates
        if judged.verdict
        for chain in judged.verdict.samples
        for turn in chain
    ]
    checked = [turn for turn in turns if turn.code_runs and turn.code_runs[-1].ok]
    assert len(checked) > 0.95 * len(turns)
    judged = [(turn.score, turn.code_runs[-1].output) for turn in checked if turn.score is not None]
    agree = [score for score, output in judged if ("False" in output) == (score < 0.5)]
    assert len(agree) > 0.9 * len(checked)
    assert all("```python\n" in turn.rationale and "[Code Output]" in turn.rationale for turn in checked)
    invalid = sum(turn.score is None for turn in turns)
    assert invalid < 0.05 * len(turns)


def test_both_models_are_on_the_ledger(best_of_8: list[Outcome]) -> None:
    for outcome in best_of_8:
        assert set(outcome.usage) == {"generate", "verify"}
        assert all(usage.flops > 0 and usage.completion > 0 for usage in outcome.usage.values())
        assert outcome.usage["verify"].cached > 0  # type: ignore[index]  # a StrEnum is its string


async def test_the_same_seed_gives_the_same_outcomes() -> None:
    """To the bit where the products are (see `cores.pick_dtype`), else but for the last digits of scores."""
    first = await solved({"name": "beam", "n": 8}, samples=2, problems=6)
    second = await solved({"name": "beam", "n": 8}, samples=2, problems=6)
    if pick_dtype("auto", torch.device("cpu")) is torch.bfloat16:
        assert [o.candidates for o in first] == [o.candidates for o in second]
    for one, two in zip(first, second, strict=True):
        assert [j.candidate.text for j in one.candidates] == [j.candidate.text for j in two.candidates]
        values = [[j.verdict.value for j in o.candidates if j.verdict] for o in (one, two)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)
    other = await solved({"name": "beam", "n": 8}, samples=2, problems=6, run={"seed": 1})
    assert [o.candidates for o in other] != [o.candidates for o in first]


async def test_the_discriminative_prm_judges_too() -> None:
    results = await solved({"name": "best-of-n", "n": 8}, problems=10, verifier={"name": "prm"})
    values = [judged.verdict.value for o in results for judged in o.candidates if judged.verdict]
    assert all(value is not None and 0 <= value <= 1 for value in values)
    assert len(set(values)) > 10


async def test_a_budget_of_the_run_is_kept_by_real_models() -> None:
    settings = {"strategy": {"name": "beam", "n": 8}, "verifier": {"samples": 4}, "budget": {"tokens": 20_000}}
    async with Engine.from_config(settings) as engine:
        results = [outcome async for outcome in engine.run(PROBLEMS[:8])]
        assert engine.ledger.total.tokens <= 20_000
    assert sum(outcome.answer is not None for outcome in results) >= 7
