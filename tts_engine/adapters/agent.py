"""Search inside an agent: its own policy and its own verifier, without any model of the engine's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import VerifierError
from tts_engine.journal import Journal
from tts_engine.policy import Policy
from tts_engine.preparing import bind_strategy
from tts_engine.search import Search
from tts_engine.types import Candidate, Key, Outcome, Problem, StepJudgement, Usage, Verdict

State = TypeVar("State")
Score = Callable[[Candidate], float | Awaitable[float]]
"""How good an agent's steps so far are, in [0, 1]: tests, a reward model, a rule."""


class States(Generic[State]):
    """The environment's state after each candidate, forked for every branch.

    Args:
        start: before the first step.
        fork: makes a state that may be changed without changing the other; a deep copy by default. For an environment
            that cannot be copied, replay the steps of the candidate instead (examples/tool_agent.py).
    """

    def __init__(self, start: State, fork: Callable[[State], State] = copy.deepcopy) -> None:
        self._start = start
        self._fork = fork
        self._kept: dict[Key, State] = {}

    def after(self, candidate: Candidate) -> State:
        """The state itself: to look at, not to change."""
        return self._kept.get(candidate.key, self._start)

    def fork(self, candidate: Candidate) -> State:
        """One to act on."""
        return self._fork(self.after(candidate))

    def keep(self, key: Key, state: State) -> None:
        """What the environment is like after the candidate of this key."""
        self._kept[key] = state


class Scorer:
    """A judge from a function; steps that were made at once share a score. What it costs is the function's affair."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self._scores: dict[Key, tuple[float, ...]] = {}

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        """The function's score, after those of the steps before."""
        given = self._score(candidate)
        value = await given if inspect.isawaitable(given) else given
        before = self._scores.get(candidate.parent, ()) if candidate.parent else ()
        scores = before + (value,) * (candidate.depth - len(before))
        self._scores[candidate.key] = scores
        said = tuple(StepJudgement(score=score) for score in scores)
        return Verdict(step_scores=scores, value=value, samples=(said,))

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        """Texts alone have no state."""
        raise VerifierError("an agent's function judges candidates, not texts")

    def publish(self) -> None:
        """Nothing is shared between candidates."""

    async def close(self) -> None:
        """Nothing is open."""


async def search(
    problem: Problem,
    policy: Policy,
    score: Score,
    *,
    strategy: str = "beam",
    budget: str | None = None,
    step_cost: Usage | None = None,
    seed: int = 0,
    **params: Any,  # noqa: ANN401  # the strategy's own, checked against its signature
) -> Outcome:
    """Search over an agent's steps.

    Args:
        problem: what is to be done; `policy` makes the steps.
        score: judges every prefix, once.
        strategy: by name, with its `params`, such as `n=16`.
        budget: such as `tokens=6k`; what is spent is what the policy settles with `calls.scope`.
        step_cost: upper bound of what a step costs, which the budget is dealt out by at first.
        seed: of all random draws that the policy makes by its keys.

    Raises:
        UsageError: unknown strategy or parameter, or a budget that makes no sense.
    """
    run = bind_strategy(strategy, params, 1)
    limits = Budget() if budget is None else Budget.parse(budget)
    with Journal.open(None, {}, resume=False) as journal, Scope.root(limits, problem.id) as scope:
        handle = Search(
            problem,
            policy=policy,
            judge=Scorer(score),
            calls=Calls(models={}, journal=journal, scope=scope, problem=problem.id),
            key=Key(seed, (problem.id,)),
            step_allowance=step_cost,
            cost_ratio=0.0,
        )
        return await run(handle)
