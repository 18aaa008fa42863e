"""A worker by itself: its journal is whoever exchanges with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tts_engine import Engine
from tts_engine.compute.ledger import Amount
from tts_engine.config import Config
from tts_engine.errors import DataError
from tts_engine.journal import Row
from tts_engine.scaleout.messages import Batch, Task
from tts_engine.scaleout.worker import Worker
from tts_engine.types import Problem

from .conftest import MakeConfig, plain_outcomes

USED_UP = Amount(tokens=0)


def task(problem: Problem, **fields: Any) -> Task:  # noqa: ANN401
    given: dict[str, Any] = {"index": 0, "share": Amount(), "fresh": Amount(), "known": {}}
    return Task(problem=problem, **given | fields)


class Driver:
    """Takes what a worker sends; `slow` waits so long before it asks again."""

    def __init__(self, config: Config, slow: float = 0.0) -> None:
        self.worker = Worker(config.model_dump(mode="json"))
        self.batches: list[Batch] = []
        self.slow = slow

    async def pump(self) -> None:
        while True:
            self.batches.append(await self.worker.exchange())
            await asyncio.sleep(self.slow)

    def rows(self, table: str) -> list[Row]:
        return [row for batch in self.batches for row in batch.rows.get(table, ())]


@asynccontextmanager
async def driving(config: Config, slow: float = 0.0) -> AsyncIterator[Driver]:
    driver = Driver(config, slow)
    await driver.worker.start()
    pump = asyncio.create_task(driver.pump())
    try:
        yield driver
        await driver.worker.stop()
    finally:
        pump.cancel()


async def test_a_worker_solves_as_an_engine_does_and_sends_every_row(
    make_config: MakeConfig, problems: list[Problem]
) -> None:
    reference = await plain_outcomes(make_config())
    async with driving(make_config(), slow=0.01) as driver:
        tasks = [task(problem, index=i) for i, problem in enumerate(problems)]
        outcomes = await asyncio.gather(*map(driver.worker.solve, tasks))
        assert {outcome.problem.id: outcome for outcome in outcomes} == reference
        assert len(driver.rows("calls")) == sum(outcome.total.calls for outcome in outcomes)
        assert len(driver.rows("outcomes")) == len(problems)


async def test_nothing_goes_on_before_the_driver_has_it(make_config: MakeConfig, problems: list[Problem]) -> None:
    worker = Worker(make_config().model_dump(mode="json"))
    await worker.start()
    solving = asyncio.create_task(worker.solve(task(problems[0])))
    first = await worker.exchange()
    assert len(first.rows["calls"]) == 8  # the beam's first candidates; none is judged before they are written
    await asyncio.sleep(0.2)
    assert first.events == []  # nobody has been told that they were made
    second = await worker.exchange()
    assert len(second.events) == 8
    assert not solving.done()
    last = asyncio.create_task(worker.exchange())
    solving.cancel()
    await worker.stop()
    last.cancel()


async def test_what_was_paid_before_is_found_and_not_paid_again(
    make_config: MakeConfig, problems: list[Problem]
) -> None:
    async with driving(make_config()) as driver:
        whole = await driver.worker.solve(task(problems[0]))
        calls = driver.rows("calls")
        checks = driver.rows("code")
    known = {"calls": calls[: len(calls) // 2], "code": checks}
    async with driving(make_config()) as driver:
        again = await driver.worker.solve(task(problems[0], known=known))
        assert again == whole
        assert len(driver.rows("calls")) == len(calls) - len(known["calls"])


async def test_the_purse_for_new_calls_is_never_overdrawn(make_config: MakeConfig, problems: list[Problem]) -> None:
    async with driving(make_config()) as driver:
        whole = await driver.worker.solve(task(problems[0]))
        known = {"calls": driver.rows("calls"), "code": driver.rows("code")}
    share = Amount(tokens=whole.total.tokens * 2)
    async with driving(make_config()) as driver:
        assert (await driver.worker.solve(task(problems[0], share=share, fresh=USED_UP, known=known))).total.calls > 0
        assert driver.rows("calls") == []  # all of them were known
    async with driving(make_config()) as driver:
        poor = await driver.worker.solve(task(problems[0], share=share, fresh=USED_UP))
        assert driver.rows("calls") == []
        assert poor.total.tokens == 0
        assert {failure.where for failure in poor.failures} == {"budget"}


async def test_plain_samples_are_those_of_an_engine(make_config: MakeConfig, problems: list[Problem]) -> None:
    async with Engine(make_config()) as engine:
        (reference,) = [outcome async for outcome in engine.baseline(problems[:1], 4)]
    async with driving(make_config()) as driver:
        assert await driver.worker.solve(task(problems[0], plain=4)) == reference


async def test_what_cancelled_calls_had_cost_is_sent(make_config: MakeConfig, problems: list[Problem]) -> None:
    config = make_config({"clock": "real", "speed": 0.5})
    async with driving(config) as driver:
        solving = asyncio.create_task(driver.worker.solve(task(problems[0])))
        await asyncio.sleep(0.2)
    assert solving.done()
    assert sum(lost.usage.tokens for batch in driver.batches for lost in batch.lost) > 0
    assert len(driver.rows("lost")) == sum(len(batch.lost) for batch in driver.batches)


async def test_a_problem_that_does_not_fit_is_refused(make_config: MakeConfig, problems: list[Problem]) -> None:
    async with driving(make_config()) as driver:
        await driver.worker.check(problems)
        with pytest.raises(DataError):
            await driver.worker.check([replace(problems[0], prompt="1 " * 5000)])
