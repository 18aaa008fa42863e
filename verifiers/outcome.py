"""An outcome reward: one score for a solution as a whole, from one token of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tts_engine.calls import Calls
from tts_engine.errors import VerifierError
from tts_engine.formats import prm as form
from tts_engine.types import Key, Message, Problem, Prompt, Request, Role, Sampling, StepJudgement
from tts_engine.verifiers.prefix import Opinion, PrefixJudge


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeReward:
    """The verifier: p(good) / (p(good) + p(bad)) of the one token after the solution; more samples say nothing new.

    Attributes:
        model: name of the verifier model in the engine.
        good, bad: the two words, one token each in the model's vocabulary.
        layout, begin: how the solution is laid out where there is no question (`formats.prm.step_prompt`).
        question: text after the solution, at whose end the token is read. None is for a step-token PRM, read after the
            last step only (formats/prm.py): the whole for the price of a step.
    """

    model: str
    good: str = form.GOOD
    bad: str = form.BAD
    layout: form.Layout = "step"
    begin: str = ""
    question: str | None = None

    @property
    def cost_ratio(self) -> float:
        return 1.0

    def open(self, problem: Problem, key: Key) -> PrefixJudge:
        async def read(steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
            return await self._score(problem, steps, key, calls)

        return PrefixJudge(read, key, most=1)

    async def _score(self, problem: Problem, steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
        if self.question is None:
            prompt = form.step_prompt(problem.prompt, steps, self.layout, self.begin)
        else:
            asked = Message(role="user", content=problem.prompt)
            prompt = Prompt(messages=(asked,), continuation=("\n".join(steps), self.question))
        sampling = Sampling(temperature=0.0, max_tokens=1, watch=(self.good, self.bad))
        request = Request(role=Role.VERIFY, model=self.model, prompt=prompt, sampling=sampling, key=key)
        completion = await calls.complete(request)
        if not completion.logprobs:
            raise VerifierError(f"{self.model} gave no logprobs of {self.good!r} and {self.bad!r} after a solution")
        known = completion.logprobs[0].alternatives
        value = 1.0 / (1.0 + math.exp(min(known[self.bad] - known[self.good], 700.0)))
        return Opinion(value=value, said=StepJudgement(score=value, usage=completion.usage))
