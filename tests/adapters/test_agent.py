"""Search over an agent's own steps: forked states, scores of prefixes, budgets."""

from __future__ import annotations

import pytest

from tts_engine import Outcome, Problem
from tts_engine.adapters.agent import Scorer, States, search
from tts_engine.calls import Calls
from tts_engine.errors import ConfigError
from tts_engine.types import Candidate, Key, Role, Step, Usage

TASK = Problem(id="bits", prompt="Write six ones.")
COST = Usage(completion=1, calls=1)
LENGTH = 6


class Agent:
    """Writes random bits; its state is the list of them."""

    def __init__(self) -> None:
        self.states: States[list[int]] = States([])

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        bits = self.states.fork(node)
        while len(bits) < LENGTH and (whole or len(bits) == node.depth):
            with calls.scope.reserve(COST) as lease:
                lease.settle(Role.GENERATE, "agent", COST)
            bits.append(key.child(len(bits)).int() % 2)
        self.states.keep(key, bits)
        steps, done = tuple(Step(text=str(bit)) for bit in bits), len(bits) == LENGTH
        answer = str(sum(bits)) if done else None
        return Candidate(problem=TASK, key=key, parent=node.key, steps=steps, done=done, answer=answer)

    def score(self, candidate: Candidate) -> float:
        bits = self.states.after(candidate)
        assert [int(step.text) for step in candidate.steps] == bits  # no branch has changed another
        return sum(bits) / len(bits)

    async def later(self, candidate: Candidate) -> float:
        return self.score(candidate)


async def run(strategy: str, seed: int = 0, **params: int | str) -> Outcome:
    agent = Agent()
    return await search(
        TASK, agent, agent.later, strategy=strategy, budget="tokens=200", step_cost=COST, seed=seed, **params
    )


async def test_search_finds_what_plain_attempts_seldom_do() -> None:
    beams = [await run("beam", seed, n=16, select="best") for seed in range(20)]
    assert all(outcome.answer == "6" for outcome in beams)
    assert all(outcome.total.tokens <= 200 for outcome in beams)
    first = [await run("best-of-n", seed, n=1, select="best") for seed in range(20)]
    assert sum(outcome.answer == "6" for outcome in first) <= 3  # 1 in 64 each


@pytest.mark.parametrize("strategy", ["beam", "best-of-n", "dvts", "mcts", "particle-filter", "self-consistency"])
async def test_equal_seeds_give_equal_outcomes(strategy: str) -> None:
    first, second = [await run(strategy, 3, n=8) for _ in range(2)]
    assert first == second


async def test_steps_have_the_scores_of_their_prefixes() -> None:
    (judged, *_) = (await run("beam", n=4)).candidates
    bits = [int(step.text) for step in judged.candidate.steps]
    assert judged.verdict is not None
    assert judged.verdict.step_scores == tuple(sum(bits[: i + 1]) / (i + 1) for i in range(LENGTH))


async def test_a_value_that_is_none_is_recorded_as_the_verifiers_failure() -> None:
    agent = Agent()
    outcome = await search(TASK, agent, lambda candidate: 7.0, n=4)
    assert {failure.where for failure in outcome.failures} == {"verifier"}
    assert outcome.answer is not None


async def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="luck"):
        await run("luck")
    with pytest.raises(ConfigError, match="depth"):
        await run("beam", depth=3)


def test_a_function_judges_candidates() -> None:
    assert Scorer(lambda candidate: 1.0).publish() is None
