"""What judges share: each result is computed once, however many ask for it and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from tts_engine.together import end

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Results by key; those under way are shared, failed ones are forgotten so that they can be tried again.

    Where money is short, who pays must not depend on who comes first: with a `payer`, a result is shared only among
    the calls of that payer until `publish`, the barrier, makes it common.
    """

    def __init__(self) -> None:
        self._common: dict[K, asyncio.Task[V]] = {}
        self._own: dict[tuple[K, Hashable], asyncio.Task[V]] = {}

    async def get(self, key: K, compute: Callable[[], Awaitable[V]], payer: Hashable | None = None) -> V:
        """The result for `key`; computed by the first who asks."""
        task = self._find(key, payer)
        if task is None:
            task = asyncio.ensure_future(self._run(key, payer, compute))
            if payer is None:
                self._common[key] = task
            else:
                self._own[key, payer] = task
        return await asyncio.shield(task)

    def known(self, key: K, payer: Hashable | None = None) -> V | None:
        """The result for `key` if it is there already; None while it is not."""
        task = self._find(key, payer)
        return task.result() if task is not None and _succeeded(task) else None

    def publish(self) -> None:
        """Share what is there with all payers from now on."""
        for (key, _), task in self._own.items():
            self._common.setdefault(key, task)
        self._own.clear()

    def results(self) -> list[V]:
        """All results that are there."""
        return [task.result() for task in self._tasks() if task.done() and not task.cancelled()]

    async def close(self) -> None:
        """Cancel what is under way."""
        await end(*(task for task in self._tasks() if not task.done()))

    def _find(self, key: K, payer: Hashable | None) -> asyncio.Task[V] | None:
        task = self._common.get(key)
        return self._own.get((key, payer)) if task is None and payer is not None else task

    def _tasks(self) -> list[asyncio.Task[V]]:
        return [*self._common.values(), *self._own.values()]

    async def _run(self, key: K, payer: Hashable | None, compute: Callable[[], Awaitable[V]]) -> V:
        try:
            return await compute()
        except BaseException:
            if payer is None:
                self._common.pop(key, None)
            else:
                self._own.pop((key, payer), None)
            raise


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
