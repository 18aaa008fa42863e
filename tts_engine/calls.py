"""The one way to a model: every call is looked up, paid for, made, settled and journalled here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tts_engine.backends.base import Backend
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Scope
from tts_engine.errors import BudgetExhausted
from tts_engine.journal import Journal
from tts_engine.types import CodeRun, Completion, Request, Role, Usage

OnCall = Callable[[Request, Completion], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A served model and what its tokens cost."""

    backend: Backend
    cost: CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Makes model calls for one problem, paid by one scope.

    `within` gives the same desk with another scope, so that a branch of the search pays from its own lane.
    """

    models: Mapping[str, Model]
    journal: Journal
    scope: Scope
    problem: str
    priority: int = 0
    on_call: OnCall | None = None

    def within(self, scope: Scope) -> Calls:
        """The same, paid by `scope`."""
        return replace(self, scope=scope)

    @property
    def limited(self) -> bool:
        """Whether the scope has a limit besides time, so that calls could be refused."""
        left = self.scope.left
        return left.tokens is not None or left.flops is not None or left.dollars is not None

    async def complete(self, request: Request) -> Completion:
        """The completion of `request`: from the journal if it was drawn before, else from the model.

        Where the scope cannot pay for `max_tokens`, a generated text is cut to what it can pay for and ends with
        Finish.LENGTH; a judgement would be worth nothing then, so it is refused. A call is in the journal before this
        returns.

        Raises:
            BudgetExhausted: the call cannot be paid, or the deadline has passed.
            BackendError: the call failed.
        """
        model = self.models[request.model]
        request, bound = self._afford(model, replace(request, priority=self.priority))
        with self.scope.reserve(bound) as lease:
            known = self.journal.find_call(request)
            completion = known or await self._draw(model, request)
            lease.settle(request.role, request.model, completion.usage)
        if known is None:
            await self.journal.write_call(request, completion, self.problem)
        if self.on_call:
            self.on_call(request, completion)
        return completion

    def charge_code(self, run: CodeRun, model: str) -> Usage:
        """Enter an executed check into the account of the verifier `model`; returns what was entered."""
        usage = Usage(code_runs=1, code_seconds=run.seconds)
        self.scope.charge(Role.VERIFY, model, usage)
        return usage

    async def _draw(self, model: Model, request: Request) -> Completion:
        try:
            async with asyncio.timeout(self.scope.left.seconds):
                completion = await model.backend.complete(request)
        except TimeoutError:
            raise BudgetExhausted(self.scope.name, "its time is over") from None
        return replace(completion, usage=model.cost.price(completion.usage))

    def _afford(self, model: Model, request: Request) -> tuple[Request, Usage]:
        """The request, shortened to what the scope can pay for, and the upper bound of its cost."""
        if not self.limited:
            return request, UNBOUNDED
        prompt = model.backend.count_tokens(request.prompt)
        room = max(model.backend.info.context - prompt, 1)  # the backend itself refuses a prompt without room
        wanted = min(request.sampling.max_tokens, room)
        affordable = model.cost.affordable_tokens(self.scope.left, prompt, wanted)
        if affordable < (wanted if request.role is Role.VERIFY else 1):
            raise BudgetExhausted(self.scope.name, f"a call of {prompt} + {wanted} tokens cannot be paid")
        if affordable < wanted:
            request = replace(request, sampling=replace(request.sampling, max_tokens=affordable))
        return request, model.cost.upper_bound(prompt, affordable)


UNBOUNDED = Usage(completion=2**62, flops=1e300, dollars=1e300)
"""Bound of a call in a scope without limits: infinity stays infinity, and no tokenizer has to be asked."""
