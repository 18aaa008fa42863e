"""The calls of a search without the search: how fast the models alone answer them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from tts_engine.backends.base import Backend
from tts_engine.run import Event, OnEvent
from tts_engine.types import Completion, Request

Calls = list[tuple[Request, Completion]]


def noting(calls: Calls) -> OnEvent:
    """Hears of a search and notes its calls."""

    def note(event: Event) -> None:
        if event.kind == "call":
            calls.append((event.data["request"], event.data["completion"]))

    return note


async def bare(
    backends: Mapping[str, Backend], requests: Sequence[Request], in_flight: Mapping[str, float]
) -> tuple[float, int]:
    """Seconds and generated tokens of the calls, so many in flight per model, in their order."""

    async def feed(name: str) -> int:
        todo = iter([request for request in requests if request.model == name])
        done = 0

        async def worker() -> None:
            nonlocal done
            for request in todo:
                completion = await backends[name].complete(request)
                done += completion.tokens

        await asyncio.gather(*(worker() for _ in range(max(1, round(in_flight[name])))))
        return done

    started = time.perf_counter()
    counts = await asyncio.gather(*map(feed, backends))
    return time.perf_counter() - started, sum(counts)
