"""The engine from a configuration to outcomes, on simulated models: budgets, order, resume, failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tts_engine import Budget, Engine, Outcome, Problem, solve
from tts_engine.backends.arithmetic import Task
from tts_engine.errors import ConfigError, DataError
from tts_engine.types import Key

TASK = {"error_rate": 0.3}
PROBLEMS = [Task(**TASK).problem(Key(1, (i,)), steps=4) for i in range(12)]  # type: ignore[arg-type]


def config(strategy: str = "best-of-n", verifier: str = "genprm", **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    simulated = {"backend": "simulated", "options": {"task": TASK} | changes.pop("task", {})}
    options: dict[str, Any] = changes.pop("options", {})
    policy = simulated | {"model": "policy", "options": simulated["options"] | options}
    judge = simulated | {"model": "verifier", "name": verifier, "samples": 2, "options": simulated["options"] | options}
    if verifier == "genprm":
        judge["params"] = {"analysis_tokens": 48, "check_tokens": 48}
    return {"policy": policy, "verifier": judge, "strategy": {"name": strategy, "n": 8}, **changes}


async def outcomes(settings: dict[str, Any], journal: Path | None = None, resume: bool = False) -> dict[str, Outcome]:
    async with Engine.from_config(settings, journal=journal, resume=resume) as engine:
        return {outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS)}


@pytest.mark.parametrize("strategy", ["self-consistency", "best-of-n", "beam"])
@pytest.mark.parametrize("budget", [{}, {"tokens": 60_000}])
async def test_outcomes_do_not_depend_on_the_order_of_completion(strategy: str, budget: dict[str, Any]) -> None:
    reference = await outcomes(config(strategy, budget=budget))
    assert len(reference) == len(PROBLEMS)
    for seed in range(3):
        assert await outcomes(config(strategy, budget=budget, options={"order_seed": seed})) == reference


@pytest.mark.parametrize("tokens", [500, 5_000, 50_000])
async def test_a_run_never_overspends_and_always_answers_something(tokens: int) -> None:
    settings = config("beam", budget={"tokens": tokens * len(PROBLEMS)})
    async with Engine.from_config(settings) as engine:
        results = [outcome async for outcome in engine.run(PROBLEMS)]
        assert engine.ledger.total.tokens <= tokens * len(PROBLEMS)
        assert all(outcome.total.tokens <= tokens for outcome in results)
    assert all(outcome.answer is not None for outcome in results)
    if tokens < 50_000:
        assert any(outcome.stop_reason.startswith("budget") for outcome in results)


async def test_resume_pays_for_nothing_twice(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    async with Engine.from_config(config(), journal=str(journal)) as engine:
        partial = [outcome async for outcome in engine.run(PROBLEMS[:5])]
    async with Engine.from_config(config(), journal=journal, resume=True) as engine:
        resumed = {outcome.problem.id: outcome async for outcome in engine.run(PROBLEMS)}
        stats = engine.journal_stats()
    assert stats.hits > 0
    assert [resumed[outcome.problem.id] for outcome in partial] == partial
    assert resumed == await outcomes(config())
    calls = sum(outcome.total.calls for outcome in resumed.values())
    assert stats.calls == calls


async def test_a_journal_of_another_configuration_is_refused(tmp_path: Path) -> None:
    await outcomes(config(), tmp_path / "journal.sqlite")
    with pytest.raises(DataError):
        await outcomes(config("beam"), tmp_path / "journal.sqlite", resume=True)


async def test_a_recorded_run_can_be_replayed_without_the_models(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    recorded = await outcomes(config(), journal)
    settings = config()
    for role in ("policy", "verifier"):
        settings[role] |= {"backend": "replay", "options": {"journal": str(journal)}}
    assert await outcomes(settings) == recorded


async def test_failing_calls_are_attributed_and_do_not_end_the_run() -> None:
    results = await outcomes(config(options={"failure_rate": 0.3}))
    places = {failure.where for outcome in results.values() for failure in outcome.failures}
    assert places == {"backend"}
    assert all(outcome.answer is not None for outcome in results.values())


async def test_usage_by_role_adds_up_to_the_ledger() -> None:
    async with Engine.from_config(config()) as engine:
        results = [outcome async for outcome in engine.run(PROBLEMS)]
        total = engine.ledger.total
    assert sum(outcome.total.tokens for outcome in results) == total.tokens
    assert sum(outcome.total.code_runs for outcome in results) == total.code_runs > 0
    assert total.flops > 0


async def test_solve_takes_text_and_its_own_budget() -> None:
    async with Engine.from_config(config()) as engine:
        outcome = await engine.solve(PROBLEMS[0].prompt, strategy="beam", verifier_samples=3, budget="tokens=200k", n=4)
    assert outcome.problem.answer is None
    assert outcome.correct is None
    assert outcome.total.tokens <= 200_000
    verdicts = [judged.verdict for judged in outcome.candidates if judged.verdict]
    assert {len(verdict.samples) for verdict in verdicts} == {3}


def test_synchronous_one_liner() -> None:
    outcome = solve(PROBLEMS[0], config=config("self-consistency"), budget=Budget(tokens=5_000))
    assert isinstance(outcome.problem, Problem)
    assert outcome.answer is not None


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (config(strategy="bean"), {}, "did you mean 'beam'"),
        (config(verifier="genprn"), {}, "did you mean 'genprm'"),
        (config(), {"strategy": "beam", "widht": 3}, "did you mean 'width'"),
        (config(), {"n": 0}, "greater than or equal to 1"),
        (config(), {"verifier_samples": 0}, "at least 1"),
        (config(), {"budget": "tokens=-4"}, "above zero"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(settings: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        solve(PROBLEMS[0], config=settings, **options)
    assert "\n" not in str(caught.value)


def test_a_problem_longer_than_the_context_is_refused() -> None:
    with pytest.raises(DataError, match="shorten it"):
        solve(PROBLEMS[0], config=config(options={"context": 20}))


async def test_one_problem_that_does_not_fit_is_refused_before_anything_is_paid() -> None:
    long = Problem(id="long", prompt=PROBLEMS[0].prompt * 20)
    async with Engine.from_config(config(options={"context": 400})) as engine:
        with pytest.raises(DataError, match="problem long has"):
            _ = [outcome async for outcome in engine.run([*PROBLEMS, long])]
        assert engine.ledger.total.calls == 0


async def test_a_deadline_ends_the_run_with_what_there_is() -> None:
    slow = {"clock": "real", "decode_rate": 20.0}
    results = await outcomes(config(budget={"seconds": 0.6}, options=slow))
    assert all(outcome.stop_reason.startswith("budget") for outcome in results.values())
