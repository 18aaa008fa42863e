"""Who is worked on next: so many at once, a bounded queue for each key, the keys in turn."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque

from tts_engine.serve.problems import Refusal

USUAL = 1.0
"""Seconds a request is taken to last before one has ended."""
LONGEST_RETRY = 60.0


class Admission:
    """The door.

    Args:
        running: requests worked on at once.
        waiting: requests that may wait; `per_key`: of one key.
    """

    def __init__(self, running: int, waiting: int, per_key: int) -> None:
        self._places = running
        self._waiting = waiting
        self._per_key = per_key
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._free = running
        self._usual = USUAL
        self.draining = False

    @property
    def running(self) -> int:
        """Requests being worked on."""
        return self._places - self._free

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._queues.values()))

    def ticket(self, key: str) -> Ticket:
        """A place, or one in the queue of `key`.

        Raises:
            Refusal: 429 where the queue is full, 503 where the gateway is about to stop.
        """
        if self.draining:
            raise Refusal(503, "the gateway is stopping; try another", "stopping", retry_after=5.0)
        if self.queued >= self._waiting or len(self._queues.get(key, ())) >= self._per_key:
            retry = min(LONGEST_RETRY, self._usual * (self.queued + 1) / self._places)
            raise Refusal(429, "too many requests are waiting; try again later", "overloaded", retry_after=retry)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._free and not self._queues:
            self._free -= 1
            place.set_result(None)
        else:
            self._queues.setdefault(key, deque()).append(place)
        return Ticket(self, key, place)

    def leave(self, key: str, place: asyncio.Future[None], seconds: float | None) -> None:
        """A request has ended after so many seconds, or has given up waiting."""
        if place in self._queues.get(key, ()):
            self._queues[key].remove(place)
            if not self._queues[key]:
                del self._queues[key]
            return
        if seconds is not None:
            self._usual += 0.1 * (seconds - self._usual)
        self._free += 1
        self._next()

    def _next(self) -> None:
        while self._free and self._queues:
            key, queue = next(iter(self._queues.items()))
            place = queue.popleft()
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]
            self._free -= 1
            if not place.cancelled():  # else its owner is about to give it back
                place.set_result(None)


class Ticket:
    """A place in the door; an async context manager that waits for its turn and gives the place back."""

    def __init__(self, door: Admission, key: str, place: asyncio.Future[None]) -> None:
        self._door = door
        self._key = key
        self._place = place
        self._began: float | None = None
        self._left = False

    async def __aenter__(self) -> None:
        try:
            await self._place
        except asyncio.CancelledError:
            self.leave()
            raise
        self._began = time.monotonic()

    async def __aexit__(self, *exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the place back; again: nothing happens."""
        if not self._left:
            self._left = True
            self._door.leave(self._key, self._place, None if self._began is None else time.monotonic() - self._began)
