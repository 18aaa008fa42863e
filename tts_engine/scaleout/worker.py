"""A worker: one engine in a process of its own, whose journal is the driver's.

Plain asyncio; scaleout/cluster.py makes it a Ray actor. The driver asks for problems with `solve` and, all the while,
for what happened with `exchange`: every such call acknowledges the batch before it, so a finished model call is in the
driver's journal before its result is used here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

from tts_engine import __version__
from tts_engine.backends.base import CallBroken, CallCancelled, ModelInfo
from tts_engine.calls import Calls, Model
from tts_engine.compute.ledger import Scope
from tts_engine.config import Config
from tts_engine.garbage import collected_rarely
from tts_engine.jobs import Event, work
from tts_engine.journal import Journal, Row, Rows, wake
from tts_engine.run import Engine
from tts_engine.scaleout.messages import Batch, Hello, Lost, Task
from tts_engine.together import end
from tts_engine.types import Completion, Outcome, Problem, Request, Usage


class Shipped(Journal):
    """A journal whose writes resolve when the driver has them; here they are kept in memory, for lookups."""

    def __init__(self, database: sqlite3.Connection, prompts: bool) -> None:
        super().__init__(database, prompts)
        self._sent: tuple[Rows, list[asyncio.Future[None]]] = {}, []
        self._lost: list[Lost] = []
        self._events: list[Event] = []
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()

    async def exchange(self) -> Batch:
        """What is new, once there is something; whoever asks has the batch before in its journal."""
        rows, waiters = self._sent
        self._commit(rows)
        wake(waiters, None)
        self._sent = {}, []
        if not self._filled.is_set():
            self._empty.set()
        await self._filled.wait()
        self._filled.clear()
        self._sent = self._rows, self._waiters
        batch = Batch(rows=self._rows, lost=self._lost, events=self._events)
        self._rows, self._waiters, self._lost, self._events = {}, [], [], []
        return batch

    async def emptied(self) -> None:
        """Return when the driver has everything."""
        await self._empty.wait()

    def learn(self, rows: Rows) -> None:
        """Know what the driver's journal has."""
        self._commit(rows)

    def forget(self, problem: str) -> None:
        """Free the memory of a problem that is solved."""
        if self._written is not None:
            names = self._database.execute("SELECT id FROM calls WHERE problem = ?", (problem,))
            self._written.difference_update([name for (name,) in names])
        self._database.execute("DELETE FROM calls WHERE problem = ?", (problem,))

    def tell(self, event: Event) -> None:
        """Send the driver an event; of the others it knows itself."""
        if event.kind == "call":
            self._events.append(event)
            self._fill()

    def lose_call(self, request: Request, usage: Usage, problem: str) -> None:
        super().lose_call(request, usage, problem)
        self._lost.append(Lost(problem=problem, role=request.role, model=request.model, usage=usage))

    async def write_model(self, info: ModelInfo) -> None:
        """The driver does."""

    def _put(self, table: str, row: Row) -> asyncio.AbstractEventLoop:
        self._rows.setdefault(table, []).append(row)
        self._fill()
        return asyncio.get_running_loop()

    def _fill(self) -> None:
        self._filled.set()
        self._empty.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purse(Model):
    """A model whose new calls are paid from a scope too, so that what was paid on a lost worker is not spent again."""

    scope: Scope

    @classmethod
    def of(cls, model: Model, scope: Scope) -> Purse:
        """`model`, limited by `scope`."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(model)}, scope=scope)

    async def complete(self, request: Request, worth: float) -> Completion:
        bound = self.cost.upper_bound(self.backend.count_tokens(request.prompt), request.sampling.max_tokens)
        with self.scope.reserve(bound) as lease:
            try:
                completion = await Model.complete(self, request, worth)
            except (CallBroken, CallCancelled) as stopped:
                lease.settle(request.role, request.model, self.cost.price(stopped.usage))
                raise
            lease.settle(request.role, request.model, self.cost.price(completion.usage))
        return completion


class Worker:
    """An engine that solves what it is sent.

    Args:
        config: the resolved configuration as nested mappings.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._solving: set[asyncio.Task[Outcome]] = set()
        self._open = AsyncExitStack()

    async def place(self) -> None:
        """Return: there is a process."""

    async def start(self) -> Hello:
        """Start the engine. Raises UsageError as it does."""
        self._journal = Shipped.open(None, {}, resume=False)
        engine = Engine(Config.build(self._config), journal=self._journal)
        self._engine = await self._open.enter_async_context(engine)
        self._open.enter_context(collected_rarely())
        return Hello(
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            models=self._engine.models,
            lines=self._engine.explain(),
        )

    async def check(self, problems: Sequence[Problem]) -> None:
        """Raise `DataError` where a problem does not fit the policy's context."""
        self._engine.jobs(problems)

    async def solve(self, task: Task) -> Outcome:
        """Solve a problem; everything it took has been exchanged when this returns."""
        solving = asyncio.create_task(self._solve(task))
        self._solving.add(solving)
        try:
            return await solving
        finally:
            self._solving.discard(solving)

    async def exchange(self) -> Batch:
        """As `Shipped.exchange`."""
        return await self._journal.exchange()

    async def stop(self) -> None:
        """Cancel what is being solved; returns when the driver knows what that had cost."""
        await end(*self._solving)
        await self._journal.emptied()
        await self._open.aclose()

    async def _solve(self, task: Task) -> Outcome:
        engine, problem = self._engine, task.problem
        self._journal.learn(task.known)
        jobs = engine.jobs([problem]) if task.plain is None else engine.plain_jobs([problem], task.plain)
        job = replace(jobs[0], priority=task.index)
        limit = engine.config.budget.per_problem.build() if task.plain is None else None
        with Scope.granted(task.share, f"share:{task.index}") as share:
            calls = engine.calls(share.child(f"problem:{problem.id}", limit), job)
            outcome = await work(job, _within(calls, task), self._journal.tell)
        self._journal.forget(problem.id)
        return outcome


def _within(calls: Calls, task: Task) -> Calls:
    """The calls, the new ones limited to what is left for them."""
    if task.fresh == task.share:
        return calls
    purse = Scope.granted(task.fresh, f"share:{task.index}")
    return replace(calls, models={name: Purse.of(model, purse) for name, model in calls.models.items()})
