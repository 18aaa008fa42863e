"""A clock that leaps: what waits only for simulated models ends at once, and tells how long it would have taken.

>>> from tts_engine.backends.leaping import run
>>> run(asyncio.sleep(3600.0, "an hour later"))
('an hour later', 3600.0)
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Events = list[tuple[selectors.SelectorKey, int]]


def run(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """The result of `work` and the seconds it would have taken, if computing took no time.

    Meant for simulated models with `clock="real"`: sleeping takes no time, and whatever waits for another process or
    for the network finds that its time limit is over.
    """
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        result = runner.run(work)
        return result, runner.get_loop().time()


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop that, when nothing is ready, goes to the moment of its next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._leaps = _Leaps()
        super().__init__(self._leaps)

    def time(self) -> float:
        """Seconds leapt over since the loop was made."""
        return self._leaps.seconds


class _Leaps(selectors.DefaultSelector):
    """A selector that adds up the time for which it is asked to wait."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> Events:
        if timeout is None:
            return super().select(None)
        self.seconds += timeout
        return super().select(0)
