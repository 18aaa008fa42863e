"""Adaptive allocation as a strategy, and a run's budget that flows to the problems: simulated models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.strategies.conftest import MakeSearch, Truth
from tts_engine import Engine, Outcome
from tts_engine.allocation import Allocation, load_allocation
from tts_engine.backends.arithmetic import Task
from tts_engine.config import Config
from tts_engine.errors import ConfigError, DataError
from tts_engine.resolving import resolved
from tts_engine.strategies import STRATEGIES
from tts_engine.types import Key, Role

TASK = {"error_rate": 0.3}
PROBLEMS = [Task(**TASK).problem(Key(1, (i,)), steps=2 + i % 4) for i in range(16)]  # type: ignore[arg-type]


def config(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    options = {"task": TASK} | changes.pop("options", {})
    models = {"backend": "simulated", "options": options}
    verifier = {"model": "verifier", "samples": 4, "params": {"analysis_tokens": 48, "check_tokens": 48}}
    strategy = {"name": "adaptive-allocation", **changes.pop("strategy", {})}
    return {"policy": models | {"model": "policy"}, "verifier": models | verifier, "strategy": strategy, **changes}


async def outcomes(settings: dict[str, Any]) -> list[Outcome]:
    async with Engine.from_config(settings) as engine:
        return [outcome async for outcome in engine.run(PROBLEMS)]


async def test_a_lower_price_buys_more_and_is_right_more_often() -> None:
    dear, cheap = [await outcomes(config(strategy={"price": price})) for price in (0.2, 0.002)]
    assert sum(o.total.tokens for o in dear) < sum(o.total.tokens for o in cheap)
    assert sum(bool(o.correct) for o in dear) < sum(bool(o.correct) for o in cheap)
    assert {len(o.candidates) for o in dear} == {1}
    assert len({len(o.candidates) for o in cheap}) > 2  # each problem gets what it needs
    assert all(Role.VERIFY not in o.usage for o in dear)


async def test_outcomes_do_not_depend_on_the_order_of_completion() -> None:
    """Not even with a common budget: prices depend on what came before in program order alone."""
    budget = {"budget": {"tokens": 16 * 600}, "run": {"allocate": "adaptive", "concurrency": 4}}
    plain = await outcomes(config(**budget))
    for seed in range(3):
        assert await outcomes(config(**budget, options={"order_seed": seed})) == plain


@pytest.mark.parametrize("tokens", [400, 3_000])
async def test_a_run_never_overspends_and_answers_every_problem(tokens: int) -> None:
    settings = config(budget={"tokens": tokens * len(PROBLEMS)}, run={"allocate": "adaptive", "concurrency": 4})
    found = await outcomes(settings)
    assert [o.problem.id for o in found] == [p.id for p in PROBLEMS]
    assert sum(o.total.tokens for o in found) <= tokens * len(PROBLEMS)
    assert sum(o.answer is not None for o in found) >= len(PROBLEMS) - 1
    if tokens > 1_000:
        assert any(Role.VERIFY in o.usage for o in found)


async def test_two_equal_votes_on_the_digits(make_search: MakeSearch) -> None:
    outcome = await STRATEGIES["adaptive-allocation"](make_search(judge=Truth()), price=0.0005, samples=2)
    assert len(outcome.candidates) > 3
    assert outcome.usage[Role.VERIFY].calls >= 1
    broken = await STRATEGIES["adaptive-allocation"](make_search(judge=Truth(broken=True)), price=0.0005, samples=2)
    assert broken.answer is not None
    assert {failure.where for failure in broken.failures} == {"verifier"}


async def test_votes_bought_step_by_step_judge_less_and_decide_the_same(tmp_path: Path) -> None:
    """The simulated verifier is asked the same questions, but for steps after which the rest was not worth it."""
    plain = load_allocation("generic")
    passes = {"passes_right": (0.98,) * 4, "passes_wrong": (0.2, 0.5, 0.7, 0.8), "turn": 1.5}
    plain.model_copy(update=passes).save(tmp_path / "steps.json")
    strategy = {"price": 0.002, "beliefs": str(tmp_path / "steps.json")}
    found = await outcomes(config(strategy=strategy))
    whole = await outcomes(config(strategy={"price": 0.002}))
    again = await outcomes(config(strategy=strategy, options={"order_seed": 1}))
    assert sorted(found, key=lambda o: o.problem.id) == sorted(again, key=lambda o: o.problem.id)
    assert not any(o.failures for o in found)
    assert sum(bool(o.correct) for o in found) >= sum(bool(o.correct) for o in whole) - 1
    judged = [sum(o.usage[Role.VERIFY].tokens for o in each if Role.VERIFY in o.usage) for each in (found, whole)]
    assert 0 < judged[0] < 1.5 * judged[1]
    verdicts = [c.verdict for o in found for c in o.candidates if c.verdict and len(c.candidate.steps) > 1]
    assert verdicts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"allocate": "adaptive"}}, "needs --budget"),
        ({"run": {"allocate": "adaptive"}, "budget": {"seconds": 60.0}}, "tokens, flops or dollars"),
        ({"run": {"allocate": "adaptive"}, "budget": {"tokens": 200}}, "raise it to"),
        ({"run": {"allocate": "adaptive"}, "budget": {"tokens": 9999}, "strategy": {"name": "best-of-n"}}, "no price"),
        ({"strategy": {"beliefs": "nowhere.json"}}, "cannot read nowhere.json"),
    ],
)
async def test_nonsense_is_refused_before_anything_is_paid(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        await outcomes(config(**changes))


def test_what_is_known_of_the_embedded_models_is_the_default_for_them(tmp_path: Path) -> None:
    embedded = resolved(Config.build({"strategy": {"name": "adaptive-allocation"}}))
    assert embedded.strategy.params["beliefs"] == "embedded"
    assert resolved(Config.build(config())).strategy.params["beliefs"] == "generic"
    known = load_allocation("embedded")
    known.save(tmp_path / "copy.json")
    assert load_allocation(str(tmp_path / "copy.json")) == known
    assert Allocation.of(known.beliefs, solution_tokens=1.0, curve=known.curve).beliefs == known.beliefs
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="no allocation"):
        load_allocation(str(tmp_path / "bad.json"))
