"""The discriminative PRM: one token a step, each prefix once."""

from __future__ import annotations

import math

import pytest

from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.formats import prm as form
from tts_engine.journal import Journal
from tts_engine.types import Key, TokenLogprob
from tts_engine.verifiers import DiscriminativePRM


def test_score_is_the_share_of_plus() -> None:
    token = TokenLogprob(text="+", logprob=-0.1, alternatives={"+": math.log(0.6), "-": math.log(0.2)})
    assert form.score(token) == pytest.approx(0.75)


async def test_each_prefix_is_read_once() -> None:
    task = Task()
    problem = task.problem(Key(0), steps=3)
    async with SimulatedBackend("prm", task=task) as backend:
        model = Model(backend=backend, cost=CostModel())
        journal = Journal.open(None, {}, False)
        calls = Calls(models={"prm": model}, journal=journal, scope=Scope.root(Budget()), problem="p")
        judge = DiscriminativePRM(model="prm", aggregation="min").open(problem, Key(0))
        steps = ("Step 1: 1+1=2.", "Step 2: 2+2=4.", "Step 3: 4+4=8.")
        short = await judge(steps[:2], 8, calls)
        long = await judge(steps, 8, calls)
    assert calls.scope.total.calls == 3
    assert len(long.samples) == 1
    assert long.step_scores[:2] == short.step_scores
    assert long.value == min(long.step_scores)
