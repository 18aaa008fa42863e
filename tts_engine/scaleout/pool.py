"""Who works on the next problem: the worker with the fewest."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)


class Pool(Generic[W]):
    """Workers that come and go, each with so many `places`; who waits for one is served by rank, the lowest first."""

    def __init__(self, places: int = 1) -> None:
        self.places = places
        self._load: dict[W, int] = {}
        self._waiting: list[tuple[int, int, asyncio.Future[W]]] = []
        self._arrivals = itertools.count()
        self._failure: Exception | None = None

    @property
    def workers(self) -> list[W]:
        """Those that are there."""
        return list(self._load)

    async def take(self, rank: int) -> W:
        """A place on the least loaded worker, as soon as one is free; give it back.

        Raises:
            Exception: what `fail` was given.
        """
        if self._failure is not None:
            raise self._failure
        place: asyncio.Future[W] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), place))
        self._match()
        return await place

    def give_back(self, worker: W) -> None:
        """Free a place; nothing happens where the worker has gone."""
        if worker in self._load:
            self._load[worker] -= 1
            self._match()

    def add(self, worker: W) -> None:
        """A worker has come."""
        self._load[worker] = 0
        self._match()

    def drop(self, worker: W) -> None:
        """A worker has gone."""
        self._load.pop(worker, None)

    def fail(self, error: Exception) -> None:
        """There will be no workers any more: all who wait, and who come, get the error."""
        self._failure = error
        for _, _, place in self._waiting:
            if not place.done():
                place.set_exception(error)
        self._waiting.clear()

    def _match(self) -> None:
        while self._waiting and self._load:
            worker = min(self._load, key=self._load.__getitem__)
            if self._load[worker] >= self.places:
                return
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():  # else who waited has been cancelled
                self._load[worker] += 1
                place.set_result(worker)
