"""One problem being solved: what is to be done, doing it, and what is told of it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tts_engine.calls import Calls
from tts_engine.errors import UsageError
from tts_engine.judging import Verifier
from tts_engine.policy import Policy
from tts_engine.search import Search
from tts_engine.types import Completion, Failure, Key, Outcome, Place, Problem, Request, Usage

DEADLINE_GRACE = 1.0
"""Seconds after a deadline until a strategy that does not heed it is stopped from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened while problems are being solved.

    data: for `call` the request and the completion; for `node` what the tree now says of a node (tree.py) with its `id`
    and `parent`; for `problem_done` the outcome.
    """

    kind: Literal["problem_started", "call", "node", "problem_done"]
    problem: str
    data: Mapping[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
Run = Callable[[Search], Awaitable[Outcome]]
"""A strategy with its parameters bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A problem and how it will be solved: checked, nothing paid yet. Made by `Engine.prepare`.

    `whole` and `step` are upper bounds of what a solution and a step by the policy cost.
    """

    problem: Problem
    strategy: Run
    policy: Policy
    verifier: Verifier | None
    key: Key
    whole: Usage
    step: Usage
    priority: int = 0


async def work(job: Job, calls: Calls, on_event: OnEvent | None) -> Outcome:
    """Solve a problem, paid by the scope of `calls`, which is closed then. A cancellation stops all work at once; what
    was computed is on the ledger when this returns or raises."""
    started = time.monotonic()
    tell = on_event or _ignore
    tell(Event(kind="problem_started", problem=job.problem.id))
    retries = Counter[str]()

    def on_call(request: Request, completion: Completion) -> None:
        if completion.retries:
            retries.update(completion.retries)
        if on_event:
            on_event(_called(job, request, completion))

    with calls.scope as scope:
        outcome = await _search(job, replace(calls, on_call=on_call), on_event)
    outcome = replace(outcome, usage=scope.spent, seconds=time.monotonic() - started, retries=dict(retries))
    result = {"answer": outcome.answer, "correct": outcome.correct, "stop_reason": outcome.stop_reason}
    await calls.journal.write_outcome(str(job.key), job.priority, result)
    tell(Event(kind="problem_done", problem=job.problem.id, data={"outcome": outcome}))
    return outcome


async def _search(job: Job, calls: Calls, on_event: OnEvent | None) -> Outcome:
    def on_node(node: Mapping[str, Any]) -> None:
        (on_event or _ignore)(Event(kind="node", problem=job.problem.id, data={"node": node}))

    judge = job.verifier.open(job.problem, job.key) if job.verifier else None
    search = Search(
        job.problem,
        policy=job.policy,
        judge=judge,
        calls=calls,
        key=job.key,
        allowance=job.whole,
        step_allowance=job.step,
        cost_ratio=job.verifier.cost_ratio if job.verifier else 0.0,
        on_node=on_node if on_event else None,
    )
    try:
        seconds = calls.scope.left.seconds
        async with asyncio.timeout(None if seconds is None else max(seconds, 0) + DEADLINE_GRACE):
            return await job.strategy(search)
    except Exception as error:  # a strategy's own failure: attributed here, what was found is kept
        if isinstance(error, UsageError):
            raise
        where: Place = "budget" if isinstance(error, TimeoutError) else "strategy"
        failure = Failure(where=where, error=type(error).__name__, message=str(error), key=str(job.key))
        search.failures.append(failure)
        return search.best_so_far("weighted")
    finally:
        if judge is not None:
            await judge.close()
        await calls.under_way.end()  # cancelled calls are settled before the scope closes


def _called(job: Job, request: Request, completion: Completion) -> Event:
    return Event(kind="call", problem=job.problem.id, data={"request": request, "completion": completion})


def _ignore(event: Event) -> None:
    """No one listens."""
