"""Work on many things at once, that ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what is still under way, and wait until all of it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def together(works: Iterable[Awaitable[T]]) -> list[T]:
    """All results, in order; where one fails or the caller is cancelled, all end before this returns."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await end(*tasks)


async def each(work: Callable[[A], Awaitable[T]], items: Iterable[A], at_once: int) -> AsyncIterator[T]:
    """What `work` gives for every item, begun in their order, `at_once` at a time; yields in order of completion.

    Where one fails, or the caller stops, the others are cancelled and have ended before the iterator ends.
    """
    gate = asyncio.Semaphore(at_once)

    async def one(item: A) -> T:
        async with gate:
            return await work(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        await end(*tasks)
