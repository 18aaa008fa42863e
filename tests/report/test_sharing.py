"""What smaller runs cost where calls share the beginning of their prompts, against runs of a model with a cache."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tts_engine import Engine, Outcome
from tts_engine.problems import load_problems
from tts_engine.report.pools import UNITS, Sample, make_pool, samples_of
from tts_engine.report.sharing import paid_for_all
from tts_engine.report.subsample import cost
from tts_engine.types import Role, Usage

TOKENS = UNITS.index("tokens")
PROBLEMS = 2


def test_the_first_call_pays_for_the_common_prompt() -> None:
    calls = [Usage(prompt=50, cached=49, completion=8), Usage(prompt=50, completion=12), Usage(prompt=50, cached=49)]
    found = paid_for_all(calls)
    assert found is not None
    assert found[0] == 1
    assert found[1]["tokens"] == pytest.approx(62 - (9 + 1) / 2)


@pytest.mark.parametrize("usages", [[], [Usage(prompt=50)], [Usage(prompt=50), Usage(prompt=60, completion=3)]])
def test_without_a_cache_nobody_pays_for_others(usages: list[Usage]) -> None:
    assert paid_for_all(usages) is None


def test_a_common_prompt_is_paid_once_whatever_n_and_k() -> None:
    def sample(text: str, *, payer: bool) -> Sample:
        read, asked = (40.0, 60.0) if payer else (0.0, 0.0)
        return Sample(
            text=text,
            answer="7",
            right=True,
            chains=[[1.0], [1.0]],
            generate={"tokens": 10.0 + read},
            verify=[{"tokens": 5.0 + 20.0 + 5.0 + asked}],  # two chains of 5; the first reads 20 for both
            first=[{"tokens": 25.0 + asked}],
            shared=({"tokens": read}, {"tokens": asked}) if payer else ({}, {}),
        )

    pool = make_pool("p", [sample("a", payer=False), sample("b", payer=True), sample("c", payer=False)])
    for n in (1, 2, 3):
        assert cost(pool, n, 0)[TOKENS] == pytest.approx(40 + 10 * n)
        assert cost(pool, n, 1)[TOKENS] == pytest.approx(40 + 10 * n + 60 + 25 * n)
        assert cost(pool, n, 2)[TOKENS] == pytest.approx(40 + 10 * n + 60 + 30 * n)


def test_a_first_chain_that_ended_early_takes_nothing_of_later_steps() -> None:
    sample = Sample(
        text="a",
        answer="7",
        right=True,
        chains=[[0.1], [0.9, 0.9]],
        generate={"tokens": 10.0},
        verify=[{"tokens": 8.0}, {"tokens": 6.0}],
        first=[{"tokens": 3.0}],
        prefixes=["a1", "a2"],
    )
    pool = make_pool("p", [sample])
    assert cost(pool, 1, 1)[TOKENS] == pytest.approx(10 + 3)
    assert cost(pool, 1, 2)[TOKENS] == pytest.approx(10 + 8 + 6)


async def outcomes(engine: Engine, n: int, k: int) -> list[Outcome]:
    problems = load_problems("arith-dev")[:PROBLEMS]
    options: dict[str, Any] = {"strategy": "best-of-n", "n": n, "verifier_samples": k}
    return list(await asyncio.gather(*(engine.solve(problem, **options) for problem in problems)))


async def test_estimates_agree_with_runs_of_the_embedded_models() -> None:
    """Equal seeds draw equal solutions and chains: the small run is a part of the large one, but for what is cached."""
    async with Engine.from_config({"verifier": {"name": "genprm"}}) as engine:
        large, small = await outcomes(engine, 3, 2), await outcomes(engine, 2, 1)
    pools = [make_pool(outcome.problem.id, samples_of(outcome)) for outcome in large]
    whole = [cost(pool, 3, 2)[TOKENS] for pool in pools]
    assert whole == pytest.approx([outcome.total.tokens for outcome in large])
    drawn = sum(cost(pool.part([0, 1]), 2, 0)[TOKENS] for pool in pools)
    both = sum(cost(pool.part([0, 1]), 2, 1)[TOKENS] for pool in pools)
    assert drawn == pytest.approx(sum(o.usage[Role.GENERATE].tokens for o in small), rel=0.03)
    assert both == pytest.approx(sum(o.total.tokens for o in small), rel=0.08)
