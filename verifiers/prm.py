"""A discriminative PRM: one number a step, from a step token or a head on it, no reasoning (formats/prm.py)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tts_engine.calls import Calls
from tts_engine.compute.ledger import Scope
from tts_engine.errors import VerifierError
from tts_engine.formats import prm as form
from tts_engine.types import Aggregation, Key, Problem, Request, Role, Sampling, StepJudgement, Verdict
from tts_engine.verifiers.memory import Memory
from tts_engine.verifiers.verdicts import make_verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminativePRM:
    """The verifier; more samples than one say nothing new, so one is taken.

    Attributes:
        model: name of the verifier model in the engine.
        aggregation: how the scores of the steps become the candidate's value.
        layout, begin: how the solution is laid out for the model (`formats.prm.step_prompt`).
    """

    model: str
    aggregation: Aggregation = "product"
    layout: form.Layout = "step"
    begin: str = ""

    @property
    def cost_ratio(self) -> float:
        return 1.0

    def open(self, problem: Problem, key: Key) -> DiscriminativeJudge:
        return DiscriminativeJudge(self, problem, key)


class DiscriminativeJudge:
    """The PRM at work on one problem."""

    def __init__(self, verifier: DiscriminativePRM, problem: Problem, key: Key) -> None:
        self._verifier = verifier
        self._problem = problem
        self._key = key
        self._scores: Memory[tuple[str, ...], StepJudgement] = Memory()

    async def __call__(self, steps: tuple[str, ...], samples: int, calls: Calls) -> Verdict:
        prefixes = [steps[: i + 1] for i in range(len(steps))]
        payer = calls.scope if calls.limited else None
        known = [self._scores.known(prefix, payer) for prefix in prefixes]
        new = [prefix for prefix, judgement in zip(prefixes, known, strict=True) if judgement is None]
        if len(new) == 1:  # as a rule, that of the last step: needs no task of its own
            found = iter([await self._step(new[0], payer, calls)])
        else:
            found = iter(await asyncio.gather(*(self._step(prefix, payer, calls) for prefix in new)))
        chain = tuple([next(found) if judgement is None else judgement for judgement in known])
        return make_verdict([chain], self._verifier.aggregation)

    def publish(self) -> None:
        self._scores.publish()

    async def close(self) -> None:
        await self._scores.close()

    async def _step(self, prefix: tuple[str, ...], payer: Scope | None, calls: Calls) -> StepJudgement:
        return await self._scores.get(prefix, lambda: self._read(prefix, calls), payer)

    async def _read(self, prefix: tuple[str, ...], calls: Calls) -> StepJudgement:
        completion = await calls.complete(
            Request(
                role=Role.VERIFY,
                model=self._verifier.model,
                prompt=form.step_prompt(self._problem.prompt, prefix, self._verifier.layout, self._verifier.begin),
                sampling=Sampling(temperature=0.0, max_tokens=1, watch=(form.GOOD, form.BAD)),
                key=self._key.child("verify", len(prefix)),
            )
        )
        if not completion.logprobs:
            raise VerifierError(
                f"{self._verifier.model} gave no logprobs of {form.GOOD} and {form.BAD} at a step token"
            )
        return StepJudgement(score=form.score(completion.logprobs[0]), usage=completion.usage)
