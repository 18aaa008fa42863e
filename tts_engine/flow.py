"""A budget that flows to the problems where it helps: one price for all, set anew for each in program order."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tts_engine.allocation import Allocation, load_allocation
from tts_engine.calls import Calls
from tts_engine.compute.ledger import Amount, Budget, Hold, Scope
from tts_engine.compute.pricing import Pacer
from tts_engine.errors import ConfigError
from tts_engine.jobs import Job, OnEvent, work
from tts_engine.together import end
from tts_engine.types import Outcome, Usage

UNITS = ("tokens", "flops", "dollars")
ROOM, BOUNDS = 16.0, 4.0
"""What a problem may set aside at once: so many solutions, and so many upper bounds of one. As many problems run at a
time as the budget has such places."""


def allocation_of(job: Job) -> Allocation:
    """What the job's strategy believes.

    Raises:
        ConfigError: it follows no price.
    """
    given: dict[str, Any] = getattr(job.strategy, "keywords", {})
    if "price" not in inspect.signature(job.strategy).parameters or "beliefs" not in given:
        raise ConfigError("this strategy follows no price: with --allocate adaptive use adaptive-allocation")
    return load_allocation(given["beliefs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a solution costs in the units that are limited: the price of everything is counted in solutions.

    A solution is taken to cost, of the upper bound of one, the share that its tokens have of the bound's.
    """

    solution: dict[str, float]

    @classmethod
    def of(cls, jobs: Sequence[Job], tokens: float, left: Amount) -> Exchange:
        """From the jobs' upper bounds and the mean tokens of a solution; `ConfigError` where nothing is limited."""
        units = [unit for unit in UNITS if getattr(left, unit) is not None]
        if not units:
            raise ConfigError("--allocate adaptive needs --budget in tokens, flops or dollars to allocate")
        bounds = sum((job.whole for job in jobs), Usage())
        return cls(solution={unit: tokens * getattr(bounds, unit) / bounds.tokens for unit in units})

    def budget(self, solutions: float) -> Budget:
        """So many solutions as limits: what one problem may set aside at once, that others find something too."""
        limits = {unit: solutions * cost for unit, cost in self.solution.items()}
        tokens = int(limits.pop("tokens")) if "tokens" in limits else None
        return Budget(tokens=tokens, **limits)

    def solutions(self, amount: Amount | Usage) -> float:
        """How many solutions an amount pays for, or a usage amounts to, in the unit that is tightest for it."""
        counts: list[float] = [getattr(amount, unit) / cost for unit, cost in self.solution.items() if cost > 0]
        return min(counts) if isinstance(amount, Amount) else max(counts)


async def flow(
    jobs: Sequence[Job],
    account: Scope,
    make_calls: Callable[[Scope, Job], Calls],
    open_scope: Callable[[Scope, Job], Scope],
    on_event: OnEvent | None,
    at_once: int,
) -> AsyncIterator[Outcome]:
    """Solve the jobs, at most `at_once` at a time, in program order; each pays from the common account.

    A job starts when the one `at_once` places before it has ended, and its price depends on those up to there alone, so
    that prices do not depend on which ends first.

    Raises:
        ConfigError: the account has no limit, or less than one solution for each problem.
    """
    if not jobs:
        return
    allocation = allocation_of(jobs[0])
    exchange = Exchange.of(jobs, allocation.solution_tokens, account.left)
    total = exchange.solutions(account.left)
    if total < len(jobs):
        raise ConfigError(
            f"the budget pays for {total:.0f} solutions, but there are {len(jobs)} problems: raise it to "
            f"{_needed(exchange, len(jobs))} or take fewer problems (--limit)"
        )
    pacer = Pacer(allocation.curve, total, len(jobs))
    room = ROOM + BOUNDS * exchange.solutions(jobs[0].whole)
    running: deque[tuple[asyncio.Task[Outcome], float]] = deque()
    kept = deque(_held_back(account, jobs))
    try:
        for job in jobs:
            while running and (len(running) >= at_once or (len(running) + 1) * room > pacer.free):
                yield await _settled(running, pacer, exchange)
            if kept:
                kept.popleft().release()
            price, planned = pacer.next()
            priced = replace(job, strategy=partial(job.strategy, price=price))  # type: ignore[call-arg]  # it has one
            share = account.child("share", exchange.budget(max(room, 2 * planned)))
            scope = open_scope(share, job)
            running.append((asyncio.create_task(work(priced, make_calls(scope, job), on_event)), planned))
        while running:
            yield await _settled(running, pacer, exchange)
    finally:
        await end(*(task for task, _ in running))


async def _settled(running: deque[tuple[asyncio.Task[Outcome], float]], pacer: Pacer, exchange: Exchange) -> Outcome:
    """The outcome of the oldest job, entered into the pacer's books."""
    outcome = await running[0][0]
    _, planned = running.popleft()
    pacer.settle(planned, exchange.solutions(outcome.total))
    return outcome


def _held_back(account: Scope, jobs: Sequence[Job]) -> list[Hold]:
    """An allowance for one solution of every job that has not begun, where half of the account pays for all of them."""
    bound = sum((job.whole for job in jobs), Usage())
    return [account.hold(job.whole) for job in jobs] if account.left.times(bound) >= 2 else []


def _needed(exchange: Exchange, problems: int) -> str:
    return ",".join(f"{unit}={_rounded_up(problems * cost):g}" for unit, cost in exchange.solution.items())


def _rounded_up(amount: float) -> float:
    """To two digits, never down.

    >>> _rounded_up(172.2)
    180.0
    """
    digit = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return math.ceil(amount / digit) * digit
