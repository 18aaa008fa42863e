"""The desk where calls are made: cancelled ones are charged too, and ledger, journal and backend agree on all of it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_engine import Engine
from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import BudgetExhausted
from tts_engine.formats.policy import solve_prompt
from tts_engine.journal import Journal
from tts_engine.problems import load_problems
from tts_engine.types import Finish, Key, Request, Role, Sampling, Usage

COUNTS = ("prompt", "cached", "completion", "cancelled", "calls")
PROMPT = solve_prompt(Task().problem(Key(0), steps=30).prompt)


def request(number: int, tokens: int = 400) -> Request:
    sampling = Sampling(max_tokens=tokens)
    return Request(role=Role.GENERATE, model="m", prompt=PROMPT, sampling=sampling, key=Key(number))


def desk(backend: SimulatedBackend, budget: Budget | None = None) -> Calls:
    models = {"m": Model(backend=backend, cost=CostModel(backend.info.shape))}
    journal = Journal.open(None, {}, resume=False)
    return Calls(models=models, journal=journal, scope=Scope.root(budget or Budget()), problem="p")


async def test_a_cancelled_call_is_charged_and_noted() -> None:
    async with SimulatedBackend("m", clock="real", speed=20.0, slots=2) as backend:
        calls = desk(backend, Budget(tokens=5_000))
        tasks = [asyncio.create_task(calls.complete(request(i))) for i in range(4)]
        await asyncio.sleep(0.1)
        for task in tasks[1:]:
            task.cancel()
        first = await tasks[0]
        await calls.under_way.end()
        total, free = calls.scope.total, calls.scope.left.tokens
        lost = calls.journal.lost()
    assert total.calls == 2  # the two that waited for a slot had computed nothing
    assert 0 < total.cancelled < 400
    assert total.completion == first.tokens
    assert total.wasted == first.usage.prompt + total.cancelled == backend.cancelled.tokens
    price = CostModel(backend.info.shape).price
    assert total.flops == pytest.approx(price(first.usage).flops + price(backend.cancelled).flops)
    assert (lost.prompt, lost.cancelled, lost.wasted) == (first.usage.prompt, total.cancelled, total.wasted)
    assert free == 5_000 - total.tokens


async def test_a_deadline_charges_what_it_cuts_off() -> None:
    async with SimulatedBackend("m", clock="real", speed=2.0) as backend:
        calls = desk(backend, Budget(seconds=0.1))
        with pytest.raises(BudgetExhausted, match="time is over"):
            await calls.complete(request(0))
        assert calls.scope.total.cancelled == backend.cancelled.cancelled > 0


async def test_thrown_away_results_are_no_further_cost() -> None:
    async with SimulatedBackend("m") as backend:
        calls = desk(backend, Budget(tokens=1_000))
        said = await calls.complete(request(0, tokens=7))
        calls.waste(Role.GENERATE, "m", said.usage.tokens)
        assert said.finish is Finish.LENGTH
        assert calls.scope.total.wasted == calls.scope.total.tokens == 1_000 - (calls.scope.left.tokens or 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(100, 4_000), st.lists(st.tuples(st.integers(1, 300), st.integers(0, 30)), min_size=1, max_size=8))
def test_never_overspent_with_cancellations(limit: int, plan: list[tuple[int, int]]) -> None:
    """Calls of up to so many tokens, each cancelled after so many milliseconds; at every moment the limit holds."""

    async def play() -> None:
        async with SimulatedBackend("m", clock="real", speed=100.0, slots=3) as backend:
            calls = desk(backend, Budget(tokens=limit))

            async def one(number: int, tokens: int, patience: int) -> None:
                task = asyncio.create_task(calls.complete(request(number, tokens)))
                await asyncio.sleep(patience / 1000)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert calls.scope.total.tokens <= limit

            await asyncio.gather(*(one(i, *item) for i, item in enumerate(plan)))
            assert calls.scope.total.tokens + (calls.scope.left.tokens or 0) == limit
            assert calls.scope.total.cancelled == backend.cancelled.cancelled

    asyncio.run(play())


async def test_ledger_and_backend_agree_to_the_token_over_a_run_with_cancellations() -> None:
    """Real models: eager self-consistency cancels draws, and a problem is interrupted in the middle of its judging."""
    config: dict[str, Any] = {"strategy": {"name": "best-of-n", "n": 6}, "verifier": {"samples": 3}}
    problems = load_problems("arith-dev")[:6]
    async with Engine.from_config(config) as engine:
        for problem in problems[:3]:
            await engine.solve(problem, strategy="adaptive-self-consistency", n=24, eager=True)
        tasks = [asyncio.create_task(engine.solve(problem)) for problem in problems[3:]]
        await asyncio.sleep(0.2 + 0.3 * random.Random(0).random())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ledger, counters, spent = engine.ledger.by_model, engine.counters(), engine.ledger.total
        assert engine.ledger.total.cancelled > 0
    for model, counted in counters.items():
        assert {name: getattr(ledger.get(model, Usage()), name) for name in COUNTS} == {n: counted[n] for n in COUNTS}
        assert counted["drawn"] == counted["completion"] + counted["cancelled"]
    assert spent.wasted >= spent.cancelled
