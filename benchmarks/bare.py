"""The calls of a search without the search: how fast the models alone answer them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from tts_engine.backends.base import Backend
from tts_engine.run import Event, OnEvent
from tts_engine.types import Completion, Request

Calls = list[tuple[Request, Completion]]
Call = Callable[[], Awaitable[int]]
"""Asks a model, and gives the number of tokens it generated."""


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

    async def complete(request: Request) -> int:
        return (await backends[request.model].complete(request)).tokens

    return await fed([(request.model, partial(complete, request)) for request in requests], in_flight)


async def fed(calls: Sequence[tuple[str, Call]], in_flight: Mapping[str, float]) -> tuple[float, int]:
    """Seconds and generated tokens of the calls, each with its model's name, so many in flight per model, in their
    order."""

    async def feed(name: str) -> int:
        todo = iter([call for model, call in calls if model == name])
        done = 0

        async def worker() -> None:
            nonlocal done
            for call in todo:
                tokens = await call()  # first: `done += await ...` would forget what others add meanwhile
                done += tokens

        await asyncio.gather(*(worker() for _ in range(max(1, round(in_flight[name])))))
        return done

    return await timed(map(feed, in_flight))


async def following(backends: Mapping[str, Backend], course: Sequence[tuple[Request, int]]) -> tuple[float, int]:
    """Seconds and generated tokens of the calls, in their order: each starts as soon as no more than so many of its
    model are under way, itself counted."""

    async def feed(name: str) -> int:
        running, ended = 0, asyncio.Event()

        async def one(request: Request) -> int:
            nonlocal running
            tokens = (await backends[name].complete(request)).tokens
            running -= 1
            ended.set()
            return tokens

        tasks = []
        for request, most in [(request, most) for request, most in course if request.model == name]:
            while running >= most:
                ended.clear()
                await ended.wait()
            running += 1
            tasks.append(asyncio.create_task(one(request)))
        return sum(await asyncio.gather(*tasks))

    return await timed(map(feed, backends))


async def timed(feeds: Iterable[Awaitable[int]]) -> tuple[float, int]:
    """Seconds until all have ended, and their sum."""
    started = time.perf_counter()
    counts = await asyncio.gather(*feeds)
    return time.perf_counter() - started, sum(counts)
