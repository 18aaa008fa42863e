"""Every strategy through the whole engine, simulated: budgets are kept, the order of completion does not matter."""

from __future__ import annotations

from typing import Any

import pytest

from tts_engine import Engine, Outcome
from tts_engine.backends.arithmetic import Task
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Key

TASK = {"error_rate": 0.4}
PROBLEMS = [Task(**TASK).problem(Key(1, (i,)), steps=3) for i in range(2)]  # type: ignore[arg-type]


async def outcomes(name: str, tokens: int | None, order: int | None) -> dict[str, Outcome]:
    model = {"backend": "simulated", "options": {"task": TASK, "order_seed": order}}
    judge = {"samples": 2, "params": {"mode": "analysis", "analysis_tokens": 48}}
    settings: dict[str, Any] = {
        "policy": {**model, "model": "policy"},
        "verifier": {**model, **judge, "model": "verifier"},
        "strategy": {"name": name, "n": 6},
        "budget": {} if tokens is None else {"per_problem": {"tokens": tokens}},
    }
    async with Engine.from_config(settings) as engine:
        return {outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS)}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("tokens", [None, 900, 5000])
async def test_order_does_not_matter_and_budgets_are_kept(name: str, tokens: int | None) -> None:
    reference = await outcomes(name, tokens, None)
    assert await outcomes(name, tokens, 1) == reference
    for outcome in reference.values():
        assert outcome.answer is not None
        assert tokens is None or outcome.total.tokens <= tokens
