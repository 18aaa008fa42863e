"""The engine in a program whose event loop is uvloop's, as that of many a server is."""

from __future__ import annotations

import uvloop

from tts_engine import Engine
from tts_engine.problems import load_problems
from tts_engine.run import Outcome
from tts_engine.types import Role


def test_a_search_with_executed_checks_and_a_model_in_its_own_process() -> None:
    config = {
        "policy": {"backend": "local", "options": {"process": True, "threads": 1}},
        "verifier": {"backend": "local", "samples": 2},
        "strategy": {"name": "beam", "n": 4, "width": 2},
    }

    async def solve() -> Outcome:
        async with Engine.from_config(config) as engine:
            return await engine.solve(load_problems("arith-dev")[0], seed=0)

    outcome = uvloop.run(solve())
    assert outcome.answer is not None
    assert not outcome.failures
    assert outcome.usage[Role.VERIFY].code_runs > 0
