"""A verifier that is asked only as often as its votes leave doubts (`--verifier-samples auto`; compute/stopping.py)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from tts_engine.calls import Calls
from tts_engine.compute.stopping import VoteRule
from tts_engine.judging import Judge, Verifier, judge_candidate, votes
from tts_engine.types import Candidate, Key, Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Any verifier, with a sequential test on the votes of its samples."""

    verifier: Verifier
    rule: VoteRule

    @property
    def cost_ratio(self) -> float:
        return self.verifier.cost_ratio

    def open(self, problem: Problem, key: Key) -> SequentialJudge:
        return SequentialJudge(self.rule, self.verifier.open(problem, key))


class SequentialJudge:
    """The verifier at work on one problem: as many samples as settle it when they agree, then one after the other.

    Samples are nested and remembered, so asking again for one more pays for one. What is asked next depends on the
    votes alone, so the verdict depends on the text alone, as ever.
    """

    def __init__(self, rule: VoteRule, judge: Judge) -> None:
        self._rule = rule
        self._judge = judge

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return await self._until_settled(samples, lambda number: self._judge(steps, number, calls))

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        return await self._until_settled(samples, lambda number: judge_candidate(self._judge, candidate, number, calls))

    def publish(self) -> None:
        self._judge.publish()

    async def close(self) -> None:
        await self._judge.close()

    async def _until_settled(self, samples: int, ask: Callable[[int], Awaitable[Verdict]]) -> Verdict:
        rule = replace(self._rule, most=samples)
        number = min(rule.least, samples)
        while True:
            verdict = await ask(number)
            yes, no = votes(verdict)
            if number >= samples or len(verdict.samples) < number or rule.settled(yes, no):
                return verdict
            number += 1
