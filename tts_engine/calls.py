"""The one way to a model: every call is looked up, paid for, made, settled and journalled here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tts_engine.backends.base import Backend, CallBroken, CallCancelled
from tts_engine.compute.cost import CostModel
from tts_engine.compute.ledger import Lease, Scope
from tts_engine.compute.scheduler import Gate
from tts_engine.errors import BudgetExhausted
from tts_engine.journal import Journal
from tts_engine.types import CodeRun, Completion, Request, Role, Usage, altered

OnCall = Callable[[Request, Completion], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A served model, what its tokens cost, and the gate of the device it shares with others (None: no limit)."""

    backend: Backend
    cost: CostModel
    gate: Gate | None = None

    async def complete(self, request: Request, worth: float) -> Completion:
        """The backend's answer, waiting for a place on the device first."""
        if self.gate is None:
            return await self.backend.complete(request)
        async with self.gate.admitted(request.role, request.priority, worth):
            return await self.backend.complete(request)


class UnderWay:
    """How many calls are running; a context manager around each."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *exc: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def end(self) -> None:
        """Return when none is running."""
        await self._none.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Makes model calls for one problem, paid by one scope.

    `within` gives the same desk with another scope, so that a branch of the search pays from its own lane. A cancelled
    call is settled like any other: what it had computed is charged, and noted in the journal. `worth` is what the calls
    are expected to gain for their cost: where models share a device, their role's share of it follows (scheduler.py).
    """

    models: Mapping[str, Model]
    journal: Journal
    scope: Scope
    problem: str
    priority: int = 0
    on_call: OnCall | None = None
    worth: float = 1.0
    under_way: UnderWay = field(default_factory=UnderWay)

    def within(self, scope: Scope) -> Calls:
        """The same, paid by `scope`."""
        return altered(self, scope=scope)

    @property
    def limited(self) -> bool:
        """Whether the scope has a limit besides time, so that calls could be refused."""
        return self.scope.limited

    async def complete(self, request: Request) -> Completion:
        """The completion of `request`: from the journal if it was drawn before, else from the model.

        Where the scope cannot pay for `max_tokens`, a generated text is cut to what it can pay for and ends with
        Finish.LENGTH; a judgement would be worth nothing then, so it is refused. A call is in the journal before this
        returns. One that broke off midway is paid for, and made again.

        Raises:
            BudgetExhausted: the call cannot be paid, or the deadline has passed.
            BackendError: the call failed.
        """
        retries: tuple[str, ...] = ()
        breaks = 0
        while True:
            try:
                return await self._once(request, retries)
            except CallBroken as error:
                retries, breaks = retries + error.kinds, breaks + 1
                if breaks == MOST_BREAKS:
                    raise

    async def _once(self, request: Request, retries: tuple[str, ...]) -> Completion:
        model = self.models[request.model]
        if request.priority != self.priority:
            request = altered(request, priority=self.priority)
        request, bound = self._afford(model, request)
        name = request.identity()
        with self.under_way, self.scope.reserve(bound) as lease:
            known = self.journal.find_call(request, name)
            completion = known or await self._draw(model, request, lease)
            lease.settle(request.role, request.model, completion.usage)
        if known is None:
            await self.journal.write_call(request, completion, self.problem, name)
        if self.on_call:
            told = completion
            if retries or known:
                told = altered(completion, retries=retries + completion.retries, recalled=known is not None)
            self.on_call(request, told)
        return completion

    def charge_code(self, run: CodeRun, model: str) -> Usage:
        """Enter an executed check into the account of the verifier `model`; returns what was entered."""
        usage = Usage(code_runs=1, code_seconds=run.seconds)
        self.scope.charge(Role.VERIFY, model, usage)
        return usage

    def waste(self, role: Role, model: str, tokens: int) -> None:
        """Note that `tokens` paid for already were thrown away: the result of a call that nobody uses."""
        self.scope.charge(role, model, Usage(wasted=tokens))

    async def _draw(self, model: Model, request: Request, lease: Lease) -> Completion:
        try:
            seconds = self.scope.seconds_left
            if seconds is None:
                return await self._answer(model, request, lease)
            async with asyncio.timeout(seconds):
                return await self._answer(model, request, lease)
        except TimeoutError:
            raise BudgetExhausted(self.scope.name, "its time is over") from None

    async def _answer(self, model: Model, request: Request, lease: Lease) -> Completion:
        try:
            completion = await model.complete(request, self.worth)
        except CallBroken as stopped:
            self._lose(model, request, lease, stopped.usage)
            raise
        except CallCancelled as stopped:
            self._lose(model, request, lease, stopped.usage)
            raise asyncio.CancelledError from None  # the plain one is all that asyncio.timeout knows
        return altered(completion, usage=model.cost.price(completion.usage))

    def _lose(self, model: Model, request: Request, lease: Lease, usage: Usage) -> None:
        """Charge a call that was cancelled or broke off."""
        usage = model.cost.price(altered(usage, wasted=usage.tokens))
        lease.settle(request.role, request.model, usage)
        self.journal.lose_call(request, usage, self.problem)

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
            request = altered(request, sampling=altered(request.sampling, max_tokens=affordable))
        return request, model.cost.upper_bound(prompt, affordable)


MOST_BREAKS = 5
"""Times that a call may break off midway before it counts as failed."""
UNBOUNDED = Usage(completion=2**62, flops=1e300, dollars=1e300)
"""Bound of a call in a scope without limits: infinity stays infinity, and no tokenizer has to be asked."""
