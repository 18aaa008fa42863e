"""Who waits for a place in a model: the more urgent first, but nobody for ever."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 64
"""Arrivals that a request may let pass for each step of priority that they are more urgent."""


def turn(priority: int, arrived: int) -> int:
    """Place in the queue of the `arrived`-th request, lowest first: one is overtaken by a bounded number of others."""
    return arrived + PATIENCE * priority


class Places:
    """Lets at most `limit` calls run at once, by `turn`; the others wait. For one event loop."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._arrived = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def taken(self, priority: int) -> AsyncIterator[None]:
        """Wait for a place, hold it, give it on."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: int) -> None:
        self._arrived += 1
        if self._free > 0:
            self._free -= 1
            return
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn(priority, self._arrived), self._arrived, call))
        try:
            await call
        except asyncio.CancelledError:
            if call.done() and not call.cancelled():
                self._leave()  # the place was given just now
            raise

    def _leave(self) -> None:
        while self._waiting:
            call = heapq.heappop(self._waiting)[2]
            if not call.done():
                call.set_result(None)
                return
        self._free += 1
