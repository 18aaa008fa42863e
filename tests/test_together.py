"""Work on many things at once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from tts_engine.together import Arrivals, each, end


async def test_results_come_as_they_end_and_never_too_many_at_once() -> None:
    running, most = 0, 0

    async def work(delay: int) -> int:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        for _ in range(delay):
            await asyncio.sleep(0)
        running -= 1
        return delay

    assert [found async for found in each(work, (9, 1, 5), 3)] == [1, 5, 9]
    assert most == 3
    assert sorted([found async for found in each(work, range(8), 2)]) == list(range(8))
    assert most == 3


@pytest.mark.parametrize("fails", [True, False])
async def test_where_one_fails_or_nobody_listens_the_others_have_ended(fails: bool) -> None:
    ended = []

    async def work(number: int) -> int:
        if number:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(number)
        if fails:
            raise ValueError("the first one")
        return number

    async with aclosing(each(work, range(3), 3)) as results:
        if fails:
            with pytest.raises(ValueError, match="the first one"):
                await anext(results)
        else:
            assert await anext(results) == 0
    assert sorted(ended) == [1, 2]


async def test_ending_what_has_ended_or_failed_is_no_error() -> None:
    async def fail() -> None:
        raise ValueError("not asked for")

    tasks = [asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await end(*tasks)
    assert [task.cancelled() for task in tasks] == [False, True, True]


async def test_arrivals_come_in_order_of_completion_also_those_that_were_there_before() -> None:
    async def work(delay: int) -> int:
        for _ in range(delay):
            await asyncio.sleep(0)
        return delay

    tasks = [asyncio.create_task(work(delay)) for delay in (9, 0, 5, 1)]
    for _ in range(3):
        await asyncio.sleep(0)
    arrivals = Arrivals(tasks)
    assert [await arrivals.next() for _ in tasks] == [0, 1, 5, 9]


async def test_an_arrival_raises_what_its_task_raised() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    failed, cancelled = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(60))
    arrivals = Arrivals((failed, cancelled))
    with pytest.raises(ValueError, match="mine"):
        await arrivals.next()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await arrivals.next()


async def test_a_wait_for_arrivals_that_is_cancelled_leaves_the_tasks_alone() -> None:
    opened = asyncio.Event()
    task = asyncio.create_task(opened.wait())
    arrivals = Arrivals([task])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(arrivals.next(), 0.001)
    opened.set()
    await task
    assert await arrivals.next()
