"""The example of an agent with a calculator, and the benchmark that measures it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.adapters.conftest import EXAMPLES, example
from tts_engine import Engine
from tts_engine.policy import Policy
from tts_engine.types import Judged

agent = example("tool_agent")


class Never(Policy):
    async def __call__(self, *given: object, **more: object) -> None:  # type: ignore[override]
        raise AssertionError


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Step 1: packed 4*7=29.", "Step 1: packed 4*7=28."),
        ("Step 2: now 12+28=\\boxed{41}.", "Step 2: now 12+28=\\boxed{40}."),
        ("Step 3: each 84/4=20.", "Step 3: each 84/4=21."),
        ("Step 3: each 1/0=20.", "Step 3: each 1/0=20."),
        ("Step 3: no calculation.", "Step 3: no calculation."),
    ],
)
def test_the_tool_has_the_last_word(text: str, after: str) -> None:
    assert agent.ToolPolicy(Never()).run(["Step 1: packed 4*7=28."], text) == after


async def test_every_calculation_of_a_search_is_the_tools() -> None:
    async with Engine.from_config() as engine:
        for strategy in ("best-of-n", "beam"):
            outcome = await agent.solve(engine, agent.PROBLEM, strategy=strategy, n=4, verifier_samples=1)
            assert outcome.correct
            assert all(correct(judged) for judged in outcome.candidates)
        plain = await agent.solve(engine, agent.PROBLEM, tool=False, strategy="self-consistency", n=32)
        assert not all(correct(judged) for judged in plain.candidates)


def correct(judged: Judged) -> bool:
    calls = [agent.CALCULATION.search(step.text) for step in judged.candidate.steps]
    return all(call is None or call[0] == f"{call[1]}={call[2] or ''}{eval(call[1]):.12g}" for call in calls)


def test_a_search_is_compared_with_a_plain_agent_that_took_no_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(EXAMPLES.parent))
    import benchmarks.agents as benchmark

    small, large, search = (
        benchmark.calculator("self-consistency", n=2),
        benchmark.calculator("self-consistency", n=4),
        benchmark.calculator("beam", n=4),
    )
    assert benchmark.partner(90, {small: 50, large: 100}) is large
    assert benchmark.partner(40, {small: 50, large: 100}) is small
    assert benchmark.partner(400, {small: 50, large: 100}) is large
    monkeypatch.setattr(benchmark, "SETTINGS", (small, large, search))
    rows = [
        {"problem": i, "name": each.name, "right": each is search or i == 0, "tokens": tokens}
        for each, tokens in ((small, 50), (large, 100), (search, 90))
        for i in range(4)
    ]
    (tmp_path / "calculator.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = benchmark.table("calculator", benchmark.read(tmp_path, "calculator")).splitlines()[-1]
    assert last.startswith("| beam n=4 | 4 | 100.0 [")
    assert "+75.0 [" in last
    assert last.endswith("self-consistency n=4: 100 |")
