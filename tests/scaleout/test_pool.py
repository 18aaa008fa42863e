"""Who works on the next problem."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tts_engine.errors import EndpointDown
from tts_engine.scaleout.pool import Pool


async def test_the_least_loaded_worker_gets_the_next_problem_and_none_gets_more_than_its_places() -> None:
    pool: Pool[str] = Pool(2)
    for name in "abc":
        pool.add(name)
    taken = Counter([await pool.take(rank) for rank in range(6)])
    assert taken == {"a": 2, "b": 2, "c": 2}
    waiting = asyncio.create_task(pool.take(6))
    await asyncio.sleep(0)
    assert not waiting.done()
    pool.give_back("b")
    assert await waiting == "b"


async def test_the_first_in_program_order_goes_first_and_who_was_cancelled_is_passed_over() -> None:
    pool: Pool[str] = Pool(1)
    tasks = {rank: asyncio.create_task(pool.take(rank)) for rank in (5, 3, 1)}
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    pool.add("a")
    assert await tasks[3] == "a"
    pool.give_back("a")
    assert await tasks[5] == "a"


async def test_a_worker_that_has_gone_gets_nothing_and_the_next_one_does() -> None:
    pool: Pool[str] = Pool(1)
    pool.add("a")
    assert await pool.take(0) == "a"
    pool.drop("a")
    pool.give_back("a")
    waiting = asyncio.create_task(pool.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert pool.workers == []
    pool.add("b")
    assert await waiting == "b"


async def test_when_no_worker_will_come_all_who_wait_hear_why() -> None:
    pool: Pool[str] = Pool(1)
    waiting = asyncio.create_task(pool.take(0))
    await asyncio.sleep(0)
    pool.fail(EndpointDown("gone"))
    with pytest.raises(EndpointDown):
        await waiting
    with pytest.raises(EndpointDown):
        await pool.take(1)
