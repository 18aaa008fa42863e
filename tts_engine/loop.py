"""The event loop of this package's programs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, on uvloop's event loop where the package uvloop is installed (vLLM brings it along).

    A search makes hundreds of small calls a second, and asyncio's own loop is written in Python; what the other one is
    worth was not measured by itself. A program of your own decides for itself: the engine runs on either.
    """
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
