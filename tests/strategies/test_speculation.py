"""Speculative searches: the same outcome, sooner; what is lost is cancelled, leaves the tree and is on the ledger."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.strategies.conftest import Digits, MakeSearch
from tests.strategies.test_levels import Blurred, Uneven
from tts_engine import Engine, Outcome
from tts_engine.backends import leaping
from tts_engine.backends.arithmetic import Task
from tts_engine.compute.ledger import Budget
from tts_engine.strategies import STRATEGIES
from tts_engine.strategies.ranks import chance_to_stay
from tts_engine.types import Key

TASK = {"error_rate": 0.4}


@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("known", [1, 2, 4])
def test_the_chance_to_stay_is_the_share_of_orders(known: int, places: int) -> None:
    total = 5
    for better in range(known):
        held = stays = 0
        for order in itertools.permutations(range(total)):  # order[i]: how good the i-th score is, 0 the best
            if sum(other < order[0] for other in order[1:known]) == better:
                held += 1
                stays += order[0] < places
        assert chance_to_stay(better, known, total - known, places) == pytest.approx(stays / held)


@pytest.mark.parametrize("speculate", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind", [Digits, Uneven])
@pytest.mark.parametrize(("n", "width"), [(12, 3), (7, 2)])
async def test_the_outcome_is_that_of_the_plain_beam(
    make_search: MakeSearch, kind: type[Digits], n: int, width: int, speculate: float
) -> None:
    plain = make_search(kind(), Blurred())
    expected = await STRATEGIES["beam"](plain, n=n, width=width, samples=1)
    for seed in range(8):
        order = random.Random(seed)
        search = make_search(kind(order=order), Blurred(order=order))
        outcome = await STRATEGIES["beam"](search, n=n, width=width, samples=1, speculate=speculate)
        assert sorted(search.tree.edges) == sorted(plain.tree.edges)
        assert replace(outcome, usage=expected.usage) == expected
        assert outcome.total.tokens - outcome.total.wasted <= expected.total.tokens <= outcome.total.tokens


def solved(strategy: dict[str, Any]) -> tuple[list[Outcome], float]:
    """Outcomes of two problems, and the seconds that they take together on a server with unevenly long calls."""
    server = {"task": TASK, "clock": "real", "tail": 0.6, "slots": 1000}
    settings: dict[str, Any] = {
        "policy": {"backend": "simulated", "model": "policy", "options": server},
        "verifier": {"name": "prm", "backend": "simulated", "model": "judge", "samples": 1, "options": server},
        "strategy": strategy,
    }
    problems = [Task(**TASK).problem(Key(1, (i,)), steps=4) for i in range(2)]  # type: ignore[arg-type]

    async def run() -> list[Outcome]:
        async with Engine.from_config(settings) as engine:
            return sorted([outcome async for outcome in engine.run(problems)], key=lambda outcome: outcome.problem.id)

    return leaping.run(run())


def test_a_speculative_search_is_over_sooner_and_pays_for_it() -> None:
    plain, usual = solved({"name": "beam", "n": 16})
    guessed, sooner = solved({"name": "beam", "n": 16, "speculate": 0.7})
    assert sooner < 0.9 * usual
    assert [outcome.candidates for outcome in guessed] == [outcome.candidates for outcome in plain]
    for outcome, reference in zip(guessed, plain, strict=True):
        assert reference.total.wasted == reference.total.cancelled == 0
        assert outcome.total.cancelled > 0
        assert outcome.total.wasted >= outcome.total.cancelled
        nodes = {node["id"] for node in outcome.tree["nodes"]}
        assert nodes == {node["id"] for node in reference.tree["nodes"]}


@pytest.mark.parametrize("value", ["verifier", "both"])
@pytest.mark.parametrize(("n", "parallel", "speculate"), [(30, 5, 4), (12, 8, 16), (3, 3, 2)])
async def test_the_waves_of_a_tree_search_are_those_without_speculation(
    make_search: MakeSearch, value: str, n: int, parallel: int, speculate: int
) -> None:
    settings: dict[str, Any] = {"n": n, "samples": 1, "value": value, "parallel": parallel}
    plain = make_search(Digits(), Blurred())
    expected = await STRATEGIES["mcts"](plain, **settings)
    for seed in range(8):
        order = random.Random(seed)
        search = make_search(Digits(order=order), Blurred(order=order))
        outcome = await STRATEGIES["mcts"](search, **settings, speculate=speculate)
        assert sorted(search.tree.edges) == sorted(plain.tree.edges)
        assert replace(outcome, usage=expected.usage) == expected
        assert outcome.total.tokens - outcome.total.wasted <= expected.total.tokens <= outcome.total.tokens


async def test_with_a_budget_or_a_fallback_no_visit_is_made_ahead(make_search: MakeSearch) -> None:
    for limits, settings in (({"budget": Budget(tokens=10**6)}, {}), ({}, {"fallback": 4, "trust": 1.0})):
        outcome = await STRATEGIES["mcts"](make_search(**limits), n=20, samples=1, speculate=8, **settings)
        assert outcome.correct is not None
        assert outcome.total.wasted == 0


@pytest.mark.parametrize("share", [0.3, 1.0])
async def test_visits_made_ahead_may_fail(make_search: MakeSearch, share: float) -> None:
    search = make_search(Digits(fail=share))
    outcome = await STRATEGIES["mcts"](search, n=40, samples=1, eager=True, speculate=8)
    assert (outcome.answer is None) == (share == 1.0)
    assert {failure.where for failure in outcome.failures} == {"backend"}


def test_a_speculative_tree_search_ends_sooner() -> None:
    strategy: dict[str, Any] = {"name": "mcts", "n": 32, "value": "verifier", "eager": True}
    _, usual = solved(strategy)
    guessed, sooner = solved(strategy | {"speculate": 8})
    assert sooner < 0.8 * usual
    for outcome in guessed:
        assert 0 < outcome.total.wasted < outcome.total.tokens / 2
        assert outcome.answer is not None
        assert sum(node["visits"] for node in outcome.tree["nodes"] if node["depth"] == 0) == 32
