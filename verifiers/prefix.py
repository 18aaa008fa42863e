"""What verifiers share that read a solution prefix as a whole: K independent samples, each prefix once."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tts_engine.calls import Calls
from tts_engine.errors import BudgetExhausted
from tts_engine.types import Key, StepJudgement, Usage, Verdict
from tts_engine.verifiers.memory import Memory
from tts_engine.verifiers.verdicts import make_verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What one sample says of a prefix.

    Attributes:
        value: in [0, 1], of the prefix as a whole; None where it could not be parsed.
        said: its rationale and what it cost.
        steps: whether each step is right, up to the first wrong one, where it says so; else empty.
    """

    value: float | None
    said: StepJudgement
    steps: tuple[bool, ...] = ()

    @property
    def chain(self) -> tuple[StepJudgement, ...]:
        """The judgements of its steps; the last of them says and costs everything."""
        if not self.steps:
            return (self.said,)
        plain = tuple(StepJudgement(score=1.0) for _ in self.steps[:-1])
        last = StepJudgement(
            score=float(self.steps[-1]),
            rationale=self.said.rationale,
            analysis=self.said.analysis,
            usage=self.said.usage,
        )
        return (*plain, last)


Read = Callable[[tuple[str, ...], Key, Calls], Awaitable[Opinion]]


class PrefixJudge:
    """A judge that reads every prefix anew.

    Args:
        read: one sample on a prefix, a pure function of the prefix and the key.
        key: of the problem's random draws.
        most: samples beyond so many say nothing new and are not taken.
    """

    def __init__(self, read: Read, key: Key, most: int | None = None) -> None:
        self._read = read
        self._key = key
        self._most = most
        self._opinions: Memory[tuple[int, tuple[str, ...]], Opinion] = Memory()

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        samples = samples if self._most is None else min(samples, self._most)
        payer = calls.scope if calls.limited else None
        text = hashlib.blake2b("\x1e".join(steps).encode(), digest_size=8).hexdigest()

        async def one(number: int) -> Opinion:
            key = self._key.child("verify", number, text)
            return await self._opinions.get((number, steps), lambda: self._read(steps, key, calls), payer)

        return whole_verdict(await in_parallel(one, samples) if payer is None else await in_turn(one, samples))

    def publish(self) -> None:
        self._opinions.publish()

    async def close(self) -> None:
        await self._opinions.close()


def whole_verdict(opinions: Sequence[Opinion]) -> Verdict:
    """The mean of the valid values; a step's score is the share that finds it right of those that got there."""
    values = [opinion.value for opinion in opinions if opinion.value is not None]
    located = make_verdict([opinion.chain for opinion in opinions if opinion.steps], "last")
    return Verdict(
        step_scores=located.step_scores,
        value=math.fsum(values) / len(values) if values else None,
        samples=tuple(opinion.chain for opinion in opinions),
        invalid_samples=len(opinions) - len(values),
        usage=sum((opinion.said.usage for opinion in opinions), Usage()),
    )


async def in_parallel(one: Callable[[int], Awaitable[Opinion]], samples: int) -> list[Opinion]:
    """All samples at once; the first failure is raised when all have ended."""
    found = await asyncio.gather(*(one(number) for number in range(samples)), return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if isinstance(result, Opinion)]


async def in_turn(one: Callable[[int], Awaitable[Opinion]], samples: int) -> list[Opinion]:
    """One sample after the other, so that none depends on what others leave over; ends with the money.

    Raises:
        BudgetExhausted: not even one could be paid.
    """
    found: list[Opinion] = []
    for number in range(samples):
        try:
            found.append(await one(number))
        except BudgetExhausted:
            if not found:
                raise
            break
    return found
