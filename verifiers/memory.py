"""What judges share: each result is computed once, however many ask for it and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Results by key; those under way are shared, failed ones are forgotten so that they can be tried again."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        """The result for `key`; computed by the first who asks."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.ensure_future(self._run(key, compute))
        return await asyncio.shield(task)

    def results(self) -> list[V]:
        """All results that are there."""
        return [task.result() for task in self._tasks.values() if task.done() and not task.cancelled()]

    async def close(self) -> None:
        """Cancel what is under way."""
        running = [task for task in self._tasks.values() if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, key: K, compute: Callable[[], Awaitable[V]]) -> V:
        try:
            return await compute()
        except BaseException:
            self._tasks.pop(key, None)
            raise
