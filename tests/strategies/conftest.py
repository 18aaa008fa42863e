"""A tree that can be searched by hand: three digits, one a step; the right solution is known.

Policy and verifier are the callables that an agent would bring: the engine around them is the real one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import BackendError, VerifierError
from tts_engine.journal import Journal
from tts_engine.search import Search
from tts_engine.types import Candidate, Key, Problem, Role, Step, StepJudgement, Usage, Verdict
from tts_engine.verifiers.verdicts import make_verdict

SECRET = (3, 1, 4)
DIGITS = 5


@dataclass
class Digits:
    """Draws one digit a step, `spread` of them; `fail` makes that share of calls fail; `order` shuffles completion."""

    depth: int = len(SECRET)
    fail: float = 0.0
    spread: int = DIGITS
    order: random.Random | None = None
    made: list[tuple[int, ...]] = field(default_factory=list)
    critiques: list[tuple[str, str, str]] = field(default_factory=list)

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        usage = node.usage + await self._pay(key, calls, Role.GENERATE)
        steps = node.steps
        for i in range(self.depth - node.depth if whole else 1):
            steps = (*steps, Step(text=str(key.child(i).int() % self.spread)))
        return self._candidate(node, key, steps, usage)

    async def refine(self, candidate: Candidate, step: str, critique: str, *, key: Key, calls: Calls) -> Candidate:
        """Draws anew the digit that the critique names, or the last one where it names none."""
        self.critiques.append((candidate.text, step, critique))
        usage = await self._pay(key, calls, Role.REFINE)
        texts = [step.text for step in candidate.steps]
        texts[int(critique[0]) if critique else -1] = str(key.int() % DIGITS)
        return self._candidate(candidate, key, tuple(Step(text=text) for text in texts), usage)

    async def resume(self, candidate: Candidate, words: str, *, key: Key, calls: Calls) -> Candidate:
        """Draws the last digit anew; the words are not kept."""
        usage = candidate.usage + await self._pay(key, calls, Role.GENERATE)
        return self._candidate(candidate, key, (*candidate.steps[:-1], Step(text=str(key.int() % DIGITS))), usage)

    async def _pay(self, key: Key, calls: Calls, role: Role) -> Usage:
        usage = Usage(prompt=1, completion=1, calls=1)
        with calls.scope.reserve(usage) as lease:
            for _ in range(self.order.randrange(9) if self.order else 0):
                await asyncio.sleep(0)
            lease.settle(role, "digits", usage)
        if key.child("fail").int() % 1000 < 1000 * self.fail:
            raise BackendError("the call failed")
        return usage

    def _candidate(self, node: Candidate, key: Key, steps: tuple[Step, ...], usage: Usage) -> Candidate:
        digits = tuple(int(step.text) for step in steps)
        self.made.append(digits)
        done = len(steps) == self.depth
        return Candidate(
            problem=node.problem,
            key=key,
            steps=steps,
            done=done,
            answer="".join(map(str, digits)) if done else None,
            parent=node.key,
            usage=usage,
        )


@dataclass
class Truth:
    """Scores a step 0.9 when its digit is right and 0.1 when it is not; `broken` judges nothing."""

    broken: bool = False
    order: random.Random | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        self.asked.append(steps)
        for _ in range(self.order.randrange(9) if self.order else 0):
            await asyncio.sleep(0)
        if self.broken:
            raise VerifierError("no opinion")
        calls.scope.charge(Role.VERIFY, "truth", Usage(prompt=1, completion=samples, calls=samples))
        chain = tuple(
            StepJudgement(score=0.9 if int(text) == right else 0.1, analysis=f"{i} is not {text}")
            for i, (text, right) in enumerate(zip(steps, SECRET, strict=False))
        )
        return make_verdict([chain] * samples, "product")

    def publish(self) -> None: ...

    async def close(self) -> None: ...


MakeSearch = Callable[..., Search]


def searching(
    policy: Digits | None = None, judge: Truth | None = None, budget: Budget | None = None, seed: int = 0
) -> Search:
    """A `Search` over the digits."""
    problem = Problem(id="digits", prompt="three digits", answer="".join(map(str, SECRET)))
    scope = Scope.root(budget or Budget(), name="problem:digits")
    calls = Calls(models={}, journal=Journal.open(None, {}, resume=False), scope=scope, problem=problem.id)
    return Search(
        problem,
        policy=policy or Digits(),
        judge=judge if judge is not None else Truth(),
        calls=calls,
        key=Key(seed, ("digits",)),
        allowance=Usage(completion=2) if budget else None,
        step_allowance=Usage(completion=2) if budget else None,
        cost_ratio=1.0,
    )


@pytest.fixture
def make_search() -> MakeSearch:
    """Builds a `Search` over the digits; keyword arguments choose policy, judge, budget and seed."""
    return searching
