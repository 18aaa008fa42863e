"""Engines whose verifier is made of several, that only judge, or whose verifier reads candidates."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worked import worked
from tts_engine.backends.arithmetic import Task
from tts_engine.errors import ConfigError, TTSError, UsageError
from tts_engine.run import Engine
from tts_engine.types import Key, Problem, Role

SURE = {"true_positive": 1.0, "false_positive": 0.0}


def served(name: str, **task: float) -> dict[str, Any]:
    return {"backend": "simulated", "model": name, "options": {"task": task}}


def example(*, wrong: bool = False) -> tuple[Problem, tuple[str, ...]]:
    problem = Task().problem(Key(3), steps=3)
    return problem, tuple(worked(problem.prompt, 1 if wrong else -1))


def cascade(**cheap: float) -> dict[str, Any]:
    members = [
        {"name": "prm", "params": {"aggregation": "min"}, **served("cheap", **cheap)},
        {"name": "genprm", "params": {"mode": "analysis"}, **served("dear", **SURE)},
    ]
    return {"policy": served("policy"), "verifier": {"name": "cascade", "params": {"members": members}}}


async def test_a_cascade_pays_for_the_dear_model_only_in_doubt() -> None:
    problem, steps = example(wrong=True)
    async with Engine.from_config(cascade(**SURE, confidence=0.95)) as engine:
        verdicts = await engine.judge(problem, steps, (1, 4))
        assert verdicts[4].first_error() == 1
        assert verdicts[1].usage.calls == verdicts[4].usage.calls == 3
    async with Engine.from_config(cascade(**SURE, confidence=0.5)) as engine:
        verdicts = await engine.judge(problem, steps, (1, 4))
        assert verdicts[4].first_error() == 1
        assert verdicts[4].value == pytest.approx(0.0, abs=0.3)
        assert verdicts[1].usage.calls == 3 + 2 * 2
        assert len(verdicts[4].samples) == 4
        assert set(engine.ledger.spent) == {Role.VERIFY}


async def test_an_ensemble_searches_like_any_verifier() -> None:
    config = cascade(**SURE) | {"strategy": {"name": "best-of-n", "n": 4}}
    config["verifier"] = config["verifier"] | {"name": "ensemble"}
    problem, _ = example()
    async with Engine.from_config(config) as engine:
        outcome = await engine.solve(problem, verifier_samples=1)
        assert set(engine.backends) == {"policy", "cheap", "dear"}
    assert outcome.correct
    assert all(judged.verdict and len(judged.verdict.samples) == 2 for judged in outcome.candidates)


async def test_confidence_is_free_and_reads_the_candidates() -> None:
    config = {"policy": served("policy", error_rate=0.1), "strategy": {"name": "best-of-n", "n": 4}}
    problem, steps = example()
    async with Engine.from_config(config | {"verifier": {"name": "confidence"}}) as engine:
        outcome = await engine.solve(problem)
        with pytest.raises(TTSError, match="policy's own"):
            await engine.judge(problem, steps, (1,))
    values = [judged.verdict.value for judged in outcome.candidates if judged.verdict]
    assert len(values) == 4
    assert all(value is not None and 0 < value <= 1 for value in values)
    assert Role.VERIFY not in outcome.usage


async def test_an_engine_that_only_judges_starts_no_policy() -> None:
    config = cascade(**SURE)
    config["policy"] = {"backend": "local", "model": "/no/such/folder"}
    problem, steps = example()
    engine = Engine(Engine.from_config(config).config, judge_only=True)
    async with engine:
        assert (await engine.judge(problem, steps, (1,)))[1].first_error() is None
        with pytest.raises(UsageError, match="only judges"):
            await engine.solve(problem)


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ({"name": "cascade", "params": {"members": [{"name": "genprn"}]}}, "did you mean 'genprm'"),
        ({"name": "cascade", "params": {"members": [{"nam": "prm"}]}}, "section verifier has no key 'nam'"),
        ({"name": "cascade", "params": {"members": [{"name": "genprm", "params": {"mod": 1}}]}}, "no parameter 'mod'"),
        ({"name": "ensemble"}, "needs the parameter 'members'"),
        ({"name": "thinkprm", "params": {"rounds": 5}}, "rounds=5 is wrong"),
        ({"name": "checker", "params": {"check": "nothing"}}, "use answer, tests, or module:function"),
        ({"name": "judge"}, "verifier judge needs a model: set verifier.model"),
    ],
)
async def test_what_is_wrong_with_a_verifier_is_named(verifier: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with Engine.from_config({"policy": served("policy"), "verifier": verifier}):
            pass
