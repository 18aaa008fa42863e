"""Who waits for a place in a model: the more urgent first, but nobody for ever."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

PATIENCE = 64
"""Arrivals that a request may let pass for each step of priority that they are more urgent."""
Call = asyncio.Future[None]
"""A call that waits; done when it has its place."""


def turn(priority: int, arrived: int) -> int:
    """Place in the queue of the `arrived`-th request, lowest first: one is overtaken by a bounded number of others."""
    return arrived + PATIENCE * priority


class Queue(Protocol):
    """Calls that wait, in some order."""

    def __len__(self) -> int:
        """How many."""

    def pop(self) -> Call:
        """Take the next one."""


class Gate:
    """Lets at most `limit` calls run at once; the others wait in `queue`. For one event loop."""

    def __init__(self, limit: int, queue: Queue) -> None:
        self._free = limit
        self._queue = queue

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return len(self._queue)

    @asynccontextmanager
    async def passed(self, push: Callable[[Call], None]) -> AsyncIterator[None]:
        """Wait for a place, hold it, give it on; `push` puts a call that has to wait into the queue."""
        await self._enter(push)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, push: Callable[[Call], None]) -> None:
        if self._free > 0:
            self._free -= 1
            return
        call: Call = asyncio.get_running_loop().create_future()
        push(call)
        try:
            await call
        except asyncio.CancelledError:
            if call.done() and not call.cancelled():
                self._leave()  # the place was given just now
            raise

    def _leave(self) -> None:
        while len(self._queue):
            call = self._queue.pop()
            if not call.done():
                call.set_result(None)
                return
        self._free += 1


class Turns:
    """Calls by `turn`."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, call: Call, priority: int) -> None:
        """Queue a call."""
        self._arrived += 1
        heapq.heappush(self._heap, (turn(priority, self._arrived), self._arrived, call))

    def pop(self) -> Call:
        """Take the next one."""
        return heapq.heappop(self._heap)[2]


class Places(Gate):
    """Lets at most `limit` calls run at once, by `turn`; the others wait."""

    def __init__(self, limit: int) -> None:
        self._turns = Turns()
        super().__init__(limit, self._turns)

    def taken(self, priority: int) -> AbstractAsyncContextManager[None]:
        """Wait for a place, hold it, give it on."""
        return self.passed(lambda call: self._turns.push(call, priority))
