"""A model that says what it is told to, and the desk to call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Self

import pytest

from tts_engine.backends.base import ModelInfo
from tts_engine.calls import Calls, Model
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Budget, Scope
from tts_engine.journal import Journal
from tts_engine.sandbox import SubprocessSandbox
from tts_engine.types import Completion, Finish, Prompt, Request, TokenLogprob, Usage


@dataclass(kw_only=True)
class Actor:
    """Base of models that say what stands in their script, and note what they were asked."""

    asked: list[Request] = field(default_factory=list)
    info = ModelInfo(name="script", context=10_000, shape=None, fingerprint="script")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def count_tokens(self, prompt: Prompt) -> int:
        return 10


@dataclass
class Says(Actor):
    """Answers the n-th call with the n-th completion."""

    completions: list[Completion]

    async def complete(self, request: Request) -> Completion:
        self.asked.append(request)
        return self.completions[len(self.asked) - 1]


def says(text: str, alternatives: dict[str, float] | None = None, finish: Finish = Finish.EOS) -> Completion:
    """A completion of ten tokens, or of the one token with the given alternatives."""
    logprobs = (TokenLogprob(text=text, logprob=(alternatives or {}).get(text, 0.0), alternatives=alternatives or {}),)
    tokens = 1 if alternatives else 10
    usage = Usage(prompt=10, completion=tokens, calls=1)
    return Completion(text=text, tokens=tokens, finish=finish, logprobs=logprobs if alternatives else (), usage=usage)


Scripted = Callable[..., tuple[Says, Calls]]


@pytest.fixture
def scripted() -> Scripted:
    """Makes a model named `verifier` from completions, texts, or texts with alternatives; and a desk, with a budget if
    one is given."""

    def make(
        *said: Completion | str | tuple[str, dict[str, float]], budget: Budget | None = None
    ) -> tuple[Says, Calls]:
        made = [s if isinstance(s, Completion) else says(s) if isinstance(s, str) else says(*s) for s in said]
        backend = Says(made)
        model = Model(backend=backend, cost=CostModel())
        scope = Scope.root(budget or Budget())
        journal = Journal.open(None, {}, False)
        return backend, Calls(models={"verifier": model}, journal=journal, scope=scope, problem="p")

    return make


@pytest.fixture
async def sandbox() -> AsyncIterator[SubprocessSandbox]:
    async with SubprocessSandbox(workers=1) as running:
        yield running
