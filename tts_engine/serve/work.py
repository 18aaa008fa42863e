"""Working on requests: waiting for a place, searching, telling of it; all of it ends when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ASGIScope

from tts_engine.compute.ledger import Budget, Scope
from tts_engine.errors import BudgetExhausted, TTSError, UsageError
from tts_engine.jobs import Event, OnEvent
from tts_engine.run import Engine
from tts_engine.serve.accounts import Account
from tts_engine.serve.admission import Ticket
from tts_engine.serve.logs import LOG
from tts_engine.serve.plan import Plan
from tts_engine.serve.problems import Refusal, refusal
from tts_engine.serve.progress import Tracker, left_of
from tts_engine.together import end, together
from tts_engine.types import Completion, Outcome, Role, Usage

T = TypeVar("T")
Result = Outcome | Completion
Tell = Callable[[int, dict[str, Any]], None]
"""Is told of a choice what goes on in it."""

PROGRESS_EVERY = 0.1
"""Seconds between two reports of a choice's progress."""
ALIVE_EVERY = 5.0
"""Seconds after which a silent stream says that it lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came out of a plan, and what it took."""

    results: Sequence[Result]
    spent: dict[Role, Usage]


async def carry_out(engine: Engine, plan: Plan, account: Account, number: str, tell: Tell | None = None) -> Done:
    """Do what a plan says, paid by an account.

    Raises:
        Refusal: nothing came of it.
    """
    scope = account.scope.child(f"request:{number}", remaining(plan.budget, plan.began))
    try:
        with scope:
            payers = scope.split(plan.choices, "choice") if plan.choices > 1 else [scope]
            heard = None if tell is None else _with_left(plan, scope, tell)
            results = await together([_choice(engine, plan, i, payer, heard) for i, payer in enumerate(payers)])
            _check_worth(results, scope, account)
    except TTSError as error:
        raise failed(error, account) from error
    return Done(results=results, spent=scope.spent)


def remaining(budget: Budget, began: float) -> Budget:
    """The budget less the time since `began` (monotonic), which a request may have waited."""
    seconds = budget.seconds
    return budget if seconds is None else replace(budget, seconds=max(seconds - time.monotonic() + began, 1e-3))


async def _choice(engine: Engine, plan: Plan, index: int, payer: Scope, tell: Tell | None) -> Result:
    if not plan.jobs:
        return await engine.complete(plan.prompt, plan.sampling, key=plan.key(index), account=payer)
    job = plan.jobs[index]
    listener = None if tell is None else _listener(plan, job.strategy, partial(tell, index))
    return await engine.work(job, account=payer, on_event=listener)


def _with_left(plan: Plan, scope: Scope, tell: Tell) -> Tell:
    """Says with every progress what is left of the request's budget."""

    def told(index: int, data: dict[str, Any]) -> None:
        tell(index, data | {"left": left_of(plan.budget, scope)} if data["event"] == "progress" else data)

    return told


def _listener(plan: Plan, strategy: Any, tell: Callable[[dict[str, Any]], None]) -> OnEvent:  # noqa: ANN401
    tracker = Tracker(plan.strategy, getattr(strategy, "keywords", {}))
    last = 0.0

    def hear(event: Event) -> None:
        nonlocal last
        node = tracker.take(event)
        if node is not None and plan.options.return_tree:
            tell({"event": "node", "node": node})
        over = event.kind == "problem_done"
        if plan.options.progress and (over or (node is not None and time.monotonic() - last >= PROGRESS_EVERY)):
            last = time.monotonic()
            tell({"event": "progress", **tracker.summary()})

    return hear


def _check_worth(results: Sequence[Result], scope: Scope, account: Account) -> None:
    """Refuse where no choice has any text: nothing was paid for but failures."""
    outcomes = [result for result in results if isinstance(result, Outcome)]
    if not outcomes or any(outcome.candidates for outcome in outcomes):
        return
    if scope.expired:
        raise Refusal(408, "the time was over before there was a solution; allow more", "deadline_exceeded")
    failures = [failure for outcome in outcomes for failure in outcome.failures]
    if any(failure.where != "budget" for failure in failures):
        raise Refusal(502, "the model failed; try again", "model_failed")
    raise failed(BudgetExhausted(scope.name), account)


def failed(error: TTSError, account: Account) -> Refusal:
    """What a client is told of an error in the work on its request; what its operator has to mend goes to the log."""
    if isinstance(error, UsageError):
        LOG.error("misconfigured", extra={"fields": {"reason": str(error)}})
        return Refusal(502, "the gateway is not set up right; tell its operator", "misconfigured")
    if isinstance(error, BudgetExhausted) and any(amount <= 0 for amount in account.left().values()):
        return Refusal(429, "the budget of this key is spent; wait for its next period", "insufficient_quota")
    return refusal(error)


async def queued(work: Callable[[], Awaitable[T]], ticket: Ticket, account: Account, seconds: float) -> T:
    """Do some work when its turn has come.

    Raises:
        Refusal: it had not come after so many seconds.
    """
    with account:
        try:
            async with asyncio.timeout(seconds) as patience, ticket:
                patience.reschedule(None)
                return await work()
        except TimeoutError:
            raise Refusal(503, "no place became free in time; try again", "overloaded", retry_after=5.0) from None


async def unless_gone(work: Awaitable[T], receive: Receive) -> T | None:
    """The result; None where the client left before, and then all the work has ended."""
    task, watch = asyncio.ensure_future(work), asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await end(task, watch)


async def gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def merged(
    work: Callable[[Tell], Awaitable[T]],
) -> AsyncIterator[tuple[int, dict[str, Any]] | T | None]:
    """What `work` tells, as it tells it, then its result; None now and then while nothing happens."""
    told: asyncio.Queue[tuple[int, dict[str, Any]] | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(lambda index, data: told.put_nowait((index, data))))
    task.add_done_callback(lambda _: told.put_nowait(None))
    try:
        while True:
            try:
                async with asyncio.timeout(ALIVE_EVERY):
                    item = await told.get()
            except TimeoutError:
                yield None
                continue
            if item is None:
                yield task.result()
                return
            yield item
    finally:
        await end(task)


class Stream(Response):
    """Server-sent events; ends the work when the client leaves, or reads so slowly that nothing can be sent.

    Args:
        lines: the events, complete with their ends.
        patience: seconds that sending one of them may take.
        ended: called at the end, whatever happened.
    """

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], *, patience: float, ended: Callable[[], None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines
        self._patience = patience
        self._ended = ended

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Send them."""
        pump, watch = asyncio.create_task(self._pump(send)), asyncio.create_task(gone(receive))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
            else:
                scope["state"]["note"]["gone"] = True
        except TimeoutError:
            scope["state"]["note"]["gone"] = True
        finally:
            await end(pump, watch)
            self._ended()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._lines) as lines:  # type: ignore[type-var]  # it is a generator
            async for line in lines:
                await self._send(send, {"type": "http.response.body", "body": line.encode("ascii"), "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._patience):
            await send(message)
