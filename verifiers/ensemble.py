"""Several verifiers as one: an ensemble asks all of them, a cascade asks the dear ones only where cheap ones doubt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from tts_engine.calls import Calls
from tts_engine.errors import ConfigError
from tts_engine.judging import Judge, judge_candidate
from tts_engine.types import Aggregation, Candidate, Key, Problem, Usage, Verdict
from tts_engine.verifiers.verdicts import aggregate

Share = Annotated[float, Field(ge=0, le=1)]
Ask = Callable[[Judge], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """All members judge; their values are combined. Calibrate the members first, or the boldest one decides.

    Attributes:
        members: verifiers; in a configuration, mappings with the keys of the section `verifier`.
        combine: `mean`, `min` or `product` of the members' valid values, and of their scores of each step.
    """

    members: list[Any]
    combine: Literal["mean", "min", "product"] = "mean"

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("an ensemble needs members: verifier.params.members, each like the section verifier")

    @property
    def cost_ratio(self) -> float:
        return math.fsum(member.cost_ratio for member in self.members)

    def open(self, problem: Problem, key: Key) -> MembersJudge:
        return MembersJudge(_open(self.members, problem, key), self._ask_all)

    async def _ask_all(self, judges: Sequence[Judge], ask: Ask) -> Verdict:
        return combined(await asyncio.gather(*map(ask, judges)), self.combine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Members in order of their cost; the next one is asked only while the value lies between the thresholds.

    Attributes:
        members: as for an ensemble, cheap ones first; the last one asked decides.
        low, high: a value of at most `low` or at least `high` is decided.
    """

    members: list[Any]
    low: Share = 0.1
    high: Share = 0.9

    def __post_init__(self) -> None:
        if not self.members or self.low > self.high:
            raise ConfigError("a cascade needs members (verifier.params.members) and low <= high")

    @property
    def cost_ratio(self) -> float:
        return float(self.members[0].cost_ratio) + 0.5 * math.fsum(m.cost_ratio for m in self.members[1:])

    def open(self, problem: Problem, key: Key) -> MembersJudge:
        return MembersJudge(_open(self.members, problem, key), self._ask_in_turn)

    async def _ask_in_turn(self, judges: Sequence[Judge], ask: Ask) -> Verdict:
        spent = Usage()
        for judge in judges:
            verdict = await ask(judge)
            spent += verdict.usage
            if verdict.value is not None and not self.low < verdict.value < self.high:
                break
        return replace(verdict, usage=spent)


class MembersJudge:
    """The judges of the members on one problem, asked as `put` says."""

    def __init__(self, judges: Sequence[Judge], put: Callable[[Sequence[Judge], Ask], Awaitable[Verdict]]) -> None:
        self._judges = judges
        self._put = put

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        return await self._put(self._judges, lambda judge: judge(steps, samples, calls))

    async def judge(self, candidate: Candidate, samples: int, calls: Calls) -> Verdict:
        return await self._put(self._judges, lambda judge: judge_candidate(judge, candidate, samples, calls))

    def publish(self) -> None:
        for judge in self._judges:
            judge.publish()

    async def close(self) -> None:
        for judge in self._judges:
            await judge.close()


def combined(verdicts: Sequence[Verdict], how: Aggregation) -> Verdict:
    """One verdict from those of the members; steps are scored as far as one of the members that score steps goes."""
    values = tuple(verdict.value for verdict in verdicts if verdict.value is not None)
    reach = max(len(verdict.step_scores) for verdict in verdicts)
    scores = (tuple(v.step_scores[i] for v in verdicts if len(v.step_scores) > i) for i in range(reach))
    return Verdict(
        step_scores=tuple(aggregate(found, how) for found in scores),
        value=aggregate(values, how) if values else None,
        samples=tuple(sample for verdict in verdicts for sample in verdict.samples),
        invalid_samples=sum(verdict.invalid_samples for verdict in verdicts),
        usage=sum((verdict.usage for verdict in verdicts), Usage()),
    )


def _open(members: Sequence[Any], problem: Problem, key: Key) -> list[Judge]:
    return [member.open(problem, key.child("member", number)) for number, member in enumerate(members)]
