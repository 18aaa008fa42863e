"""Who is served next where both roles share a device: weighted fair queueing, and the gate that applies it.

Start-time fair queueing (Goyal et al. 1996): every request gets a start tag, the larger of the clock and its role's
last finish tag; its own finish tag lies 1 / weight later. The smallest start tag is served, and the clock moves there.
So while both roles wait, each is served in proportion to its weight, and one alone gets everything; no weight above 0
starves. Within a role the more urgent go first, but one place of urgency is worth a number of arrivals
(queueing.py) and no more: whoever waits is overtaken by a bounded number of others.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tts_engine.backends import queueing

T = TypeVar("T")
LEAST = 0.05
"""Share of the largest weight that every role keeps."""
SMOOTHING = 0.1
"""Share of a new request's worth in the weight of its role."""


@dataclass(slots=True)
class _Class(Generic[T]):
    """The requests of one role: a heap by urgency and arrival, its weight and the finish tag of its last request."""

    waiting: list[tuple[int, int, T]] = field(default_factory=list)
    weight: float = 0.0
    finish: float = 0.0


class FairQueue(Generic[T]):
    """Items by class (a role), weight and priority; `pop` serves the classes in proportion to their weights."""

    def __init__(self) -> None:
        self._classes: dict[Hashable, _Class[T]] = {}
        self._clock = 0.0
        self._arrived = 0

    def __len__(self) -> int:
        return sum(len(found.waiting) for found in self._classes.values())

    def push(self, kind: Hashable, item: T, *, priority: int = 0, worth: float = 1.0) -> None:
        """Queue an item; `worth`, above 0, moves the weight of its class: a gain per unit of cost, say."""
        found = self._classes.setdefault(kind, _Class())
        found.weight += (worth - found.weight) * (SMOOTHING if found.weight else 1.0)
        self._arrived += 1
        heapq.heappush(found.waiting, (queueing.turn(priority, self._arrived), self._arrived, item))

    def pop(self) -> T:
        """The next item; IndexError where there is none."""
        waiting = {kind: found for kind, found in self._classes.items() if found.waiting}
        if not waiting:
            raise IndexError("nobody waits")
        most = max(found.weight for found in waiting.values())
        start, _, found = min(
            ((max(self._clock, c.finish), c.waiting[0][1], c) for c in waiting.values()), key=lambda entry: entry[:2]
        )
        self._clock = start
        found.finish = start + most / max(found.weight, LEAST * most)
        return heapq.heappop(found.waiting)[2]


class Gate(queueing.Gate):
    """Lets at most `limit` calls onto a device at once; the others wait in a `FairQueue`: that is the back-pressure.

    For one event loop.
    """

    def __init__(self, limit: int) -> None:
        self._fair: FairQueue[queueing.Call] = FairQueue()
        super().__init__(limit, self._fair)

    def admitted(self, kind: Hashable, priority: int = 0, worth: float = 1.0) -> AbstractAsyncContextManager[None]:
        """Wait for a place, hold it, give it on."""
        return self.passed(lambda call: self._fair.push(kind, call, priority=priority, worth=worth))
