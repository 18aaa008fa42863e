"""ThinkPRM: a long chain that verifies a prefix, then the probability of a yes (arXiv 2504.16828).

Parallel scaling: K chains, mean of their scores. Sequential scaling: `rounds` up to 4, each after the first begun with
a phrase that makes it think again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from tts_engine.calls import Calls
from tts_engine.formats import thinkprm as form
from tts_engine.types import Completion, Finish, Key, Problem, Prompt, Request, Role, Sampling, StepJudgement
from tts_engine.verifiers.prefix import Opinion, PrefixJudge

ANSWER_TOKENS = 4
ALTERNATIVES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkPRM:
    """The verifier.

    Attributes:
        model: name of the verifier model in the engine.
        sampling: temperature and the like (published: temperature 0.6).
        rounds: 1 verifies once; up to 4 with the published phrases.
        tokens: bound of one round, in tokens; a round that reaches it is not continued, and the question is asked.
        generation_prompt: whether the assistant tag stands before the chain (published: yes).
    """

    model: str
    sampling: Sampling
    rounds: Annotated[int, Field(ge=1, le=1 + len(form.PHRASES))] = 1
    tokens: Annotated[int, Field(ge=1)] = 4096
    generation_prompt: bool = True

    @property
    def cost_ratio(self) -> float:
        return 4.0 * self.rounds

    def open(self, problem: Problem, key: Key) -> PrefixJudge:
        async def read(steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
            return await self._verify(problem, steps, key, calls)

        return PrefixJudge(read, key)

    async def _verify(self, problem: Problem, steps: tuple[str, ...], key: Key, calls: Calls) -> Opinion:
        messages = form.messages(problem.prompt, steps)
        prompt = Prompt(messages=messages, continuation=(form.START,), generation_prompt=self.generation_prompt)
        spent, said, finish = [], [""], Finish.EOS
        for number in range(self.rounds):
            if number and finish is Finish.LENGTH:
                break
            if number:
                prompt = prompt.then(f"\n{form.PHRASES[number - 1]}")
            completion = await self._complete(prompt, key.child("round", number), calls, max_tokens=self.tokens)
            prompt, finish = prompt.then(completion.text), completion.finish
            said.append(completion.text)
            spent.append(completion.usage)
        question = {"max_tokens": ANSWER_TOKENS, "temperature": 0.0, "logprobs": ALTERNATIVES}
        answer = await self._complete(prompt.then(form.QUESTION), key.child("question"), calls, **question)
        value = form.share_of_yes(answer.logprobs)
        usage = sum(spent, answer.usage)
        turn = "".join((*prompt.continuation, form.QUESTION, answer.text))
        verdicts = next(filter(None, map(form.step_verdicts, reversed(said))), ())[: len(steps)]
        located = verdicts if verdicts and (not verdicts[-1] or len(verdicts) == len(steps)) else ()
        return Opinion(value=value, said=StepJudgement(score=value, rationale=turn, usage=usage), steps=located)

    async def _complete(self, prompt: Prompt, key: Key, calls: Calls, **sampling: float) -> Completion:
        request = Request(
            role=Role.VERIFY,
            model=self.model,
            prompt=prompt,
            sampling=replace(self.sampling, **sampling),  # type: ignore[arg-type]  # fields by name
            key=key,
        )
        return await calls.complete(request)
