"""The policy of a search: something that extends a partial solution. A language model, or whatever an agent brings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tts_engine.calls import Calls
from tts_engine.formats import policy as form
from tts_engine.formats.answers import extract_answer
from tts_engine.types import (
    Candidate,
    Completion,
    Finish,
    Key,
    Prompt,
    Request,
    Role,
    Sampling,
    Step,
    TokenLogprob,
    altered,
)


class Policy(Protocol):
    """Extends a candidate by one step, or by all that is missing when `whole`.

    The result has `key` as its key and `node.key` as its parent; it is a pure function of the node and the key
    (for a model: as far as the backend repeats itself).

    Raises:
        BackendError, BudgetExhausted: the step could not be made; the search goes on without it.
    """

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate: ...


@runtime_checkable
class Writer(Protocol):
    """What a policy can do besides, if it is to refine solutions or to think again. Raises as a policy does."""

    async def refine(self, candidate: Candidate, step: str, critique: str, *, key: Key, calls: Calls) -> Candidate:
        """A new solution after a critique of one step of an old one, its parent. Pure as a policy is."""
        ...

    async def resume(self, candidate: Candidate, words: str, *, key: Key, calls: Calls) -> Candidate:
        """The solution carried on to another end by a step that begins with `words`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguagePolicy:
    """A language model that writes `Step i: ...`, one call a step or one call for the rest of the solution.

    Attributes:
        model: name of the model in the engine.
        sampling: temperature and the like; its `max_tokens` bounds a whole solution, its `stop` strings end one.
        step_tokens: bound of one step, in tokens; a longer step is cut off and the candidate is dead.
        max_steps: a candidate that is not done after so many steps is dead.
    """

    model: str
    sampling: Sampling
    step_tokens: int
    max_steps: int

    async def __call__(self, node: Candidate, key: Key, calls: Calls, *, whole: bool) -> Candidate:
        texts = tuple(step.text for step in node.steps)
        left = max(1, self.sampling.max_tokens - node.usage.completion)
        sampling = self.sampling
        if not whole:
            stops = (form.STEP_STOP, *sampling.stop)
            sampling = altered(sampling, stop=stops, max_tokens=min(self.step_tokens, left))
        elif left < sampling.max_tokens:
            sampling = altered(sampling, max_tokens=left)
        completion = await calls.complete(
            Request(
                role=Role.GENERATE,
                model=self.model,
                prompt=form.solve_prompt(node.problem.prompt, texts),
                sampling=sampling,
                key=key,
            )
        )
        return self._extended(node, key, completion, whole)

    async def refine(self, candidate: Candidate, step: str, critique: str, *, key: Key, calls: Calls) -> Candidate:
        """The whole solution written anew after a critique (arXiv 2504.00891); its usage is that of the rewriting."""
        messages = form.refine_messages(candidate.problem.prompt, candidate.text, step, critique)
        prompt = Prompt(messages=messages, continuation=form.continuation(()))
        completion = await calls.complete(
            Request(role=Role.REFINE, model=self.model, prompt=prompt, sampling=self.sampling, key=key)
        )
        blank = Candidate(problem=candidate.problem, key=candidate.key)
        return self._extended(blank, key, completion, whole=True)

    async def resume(self, candidate: Candidate, words: str, *, key: Key, calls: Calls) -> Candidate:
        """The rest of the solution after the forced words (budget forcing, 2501.19393), which answers anew or not."""
        texts = tuple(step.text for step in candidate.steps)
        prompt = form.solve_prompt(candidate.problem.prompt, texts).then(words)
        completion = await calls.complete(
            Request(role=Role.GENERATE, model=self.model, prompt=prompt, sampling=self.sampling, key=key)
        )
        return self._extended(candidate, key, altered(completion, text=words + completion.text), whole=True)

    def _extended(self, node: Candidate, key: Key, completion: Completion, whole: bool) -> Candidate:
        text = form.heading(node.depth) + completion.text.strip()
        parts = form.split_steps(text) if whole else (text,)
        sure = completion.mean_logprob
        steps = node.steps + tuple(Step(text=part, finish=completion.finish, mean_logprob=sure) for part in parts)
        cut = completion.finish in (Finish.LENGTH, Finish.ABORTED)
        answer = None if cut else extract_answer(text)
        stopped = completion.stop is not None and completion.stop in self.sampling.stop
        done = not cut and (whole or completion.finish is Finish.EOS or answer is not None or stopped)
        used = node.usage.completion + completion.usage.completion >= self.sampling.max_tokens
        stuck = not completion.text.strip() or len(steps) >= self.max_steps or used
        return Candidate(
            problem=node.problem,
            key=key,
            steps=steps,
            done=done,
            dead=cut or (stuck and not done),
            answer=answer,
            parent=node.key,
            mean_logprob=_mean(node, completion),
            confidences=node.confidences + tuple(map(_confidence, completion.logprobs)),
            usage=node.usage + completion.usage if node.steps else completion.usage,
        )


def _confidence(token: TokenLogprob) -> float:
    """Minus the mean logprob of the most likely alternatives (DeepConf's token confidence, 2508.15260)."""
    return -math.fsum(token.alternatives.values()) / max(len(token.alternatives), 1)


def _mean(node: Candidate, completion: Completion) -> float:
    """Mean logprob per token over the earlier steps and this completion."""
    if not node.steps or math.isnan(node.mean_logprob):
        return completion.mean_logprob
    tokens = node.usage.completion + completion.tokens
    return (node.mean_logprob * node.usage.completion + completion.mean_logprob * completion.tokens) / max(tokens, 1)
