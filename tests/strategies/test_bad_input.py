"""What policies and verifiers may do wrong: every strategy ends all the same, with the reason on the outcome."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.strategies.conftest import Digits, MakeSearch, Truth
from tests.strategies.test_strategies import CASES
from tts_engine import Engine, Outcome
from tts_engine.backends import leaping
from tts_engine.backends.arithmetic import Task
from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Candidate, Key, Problem, Role, Step, Verdict

JUDGED = [(name, options) for name, options in CASES if "samples" in options]
STEPWISE = ("beam", "mcts", "particle-filter")
LONG = Task(error_rate=0.3).problem(Key(0), steps=60)
"""A problem whose solutions are longer than the policy may write."""


class Silent(Digits):
    """Writes nothing: an empty step, for ever."""

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        usage = node.usage + await self._pay(key, calls, Role.GENERATE)
        steps = (*node.steps, Step(text=""))
        return Candidate(problem=node.problem, key=key, steps=steps, parent=node.key, usage=usage)


class Nonsense(Truth):
    """Values that are no values."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return Verdict(step_scores=(), value=math.nan if len(steps) % 2 else 7.0)


class Speechless(Truth):
    """Judgements that cannot be parsed."""

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return Verdict(step_scores=(), value=None, invalid_samples=samples)


@pytest.mark.parametrize(("name", "options"), CASES)
async def test_empty_steps_for_ever_end_with_the_budget(
    make_search: MakeSearch, name: str, options: dict[str, Any]
) -> None:
    outcome = await STRATEGIES[name](make_search(Silent(), Speechless(), Budget(tokens=400)), **options)
    assert outcome.answer is None
    assert outcome.total.tokens <= 400
    assert outcome.stop_reason.startswith(("budget", "no answer"))


@pytest.mark.parametrize(("name", "options"), JUDGED)
async def test_values_that_are_none_are_refused_and_the_majority_decides(
    make_search: MakeSearch, name: str, options: dict[str, Any]
) -> None:
    outcome = await STRATEGIES[name](make_search(judge=Nonsense()), **options)
    assert outcome.answer is not None
    assert {(failure.where, failure.error) for failure in outcome.failures} == {("verifier", "VerifierError")}
    assert all(judged.verdict is None for judged in outcome.candidates)


@pytest.mark.parametrize(("name", "options"), JUDGED)
@pytest.mark.parametrize("judge", [Speechless(), Truth(broken=True)])
async def test_a_verifier_without_an_opinion_leaves_an_answer(
    make_search: MakeSearch, name: str, options: dict[str, Any], judge: Truth
) -> None:
    outcome = await STRATEGIES[name](make_search(judge=judge), **options)
    assert outcome.answer is not None


@pytest.mark.parametrize(("name", "options"), CASES)
async def test_a_budget_for_less_than_one_candidate_is_said(
    make_search: MakeSearch, name: str, options: dict[str, Any]
) -> None:
    outcome = await STRATEGIES[name](make_search(budget=Budget(tokens=1)), **options)
    assert outcome.answer is None
    assert outcome.total.tokens <= 1
    assert outcome.stop_reason == "budget: problem:digits"


@pytest.mark.parametrize(("n", "width"), [(7, 3), (5, 8), (1, 4), (9, 2)])
@pytest.mark.parametrize("name", ["beam", "dvts", "beam-refine"])
async def test_widths_need_not_divide(make_search: MakeSearch, name: str, n: int, width: int) -> None:
    outcome = await STRATEGIES[name](make_search(), n=n, width=width, samples=1)
    assert len(outcome.candidates) == n


def engine_outcome(strategy: str, policy: dict[str, Any], verifier: dict[str, Any], **budget: Any) -> Outcome:  # noqa: ANN401
    """One problem through the whole engine, on a clock that leaps."""
    settings: dict[str, Any] = {
        "policy": {"backend": "simulated", "model": "policy", **policy},
        "verifier": {"backend": "simulated", "model": "judge", "name": "prm", "samples": 1, **verifier},
        "strategy": {"name": strategy, "n": 4},
        "budget": {"per_problem": budget},
    }

    async def run(problem: Problem) -> Outcome:
        async with Engine.from_config(settings) as engine:
            return await engine.solve(problem)

    return leaping.run(run(LONG if policy else Task().problem(Key(3))))[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_policy_that_never_comes_to_an_end_is_given_up(name: str) -> None:
    outcome = engine_outcome(name, {"max_steps": 5, "max_tokens": 40}, {})
    assert outcome.answer is None
    assert outcome.stop_reason == "no answer"


@pytest.mark.parametrize("name", ["best-of-n", "beam", "mcts", "particle-filter", "refine"])
def test_a_verifier_that_stalls_ends_with_the_time(name: str) -> None:
    stalled = {"options": {"clock": "real", "overhead": 1e9}}
    outcome = engine_outcome(name, {}, stalled, seconds=5.0)
    assert outcome.stop_reason.startswith("budget")
    assert any(failure.where == "budget" for failure in outcome.failures)
    assert outcome.answer is not None or name in STEPWISE  # where no solution had ended by then
