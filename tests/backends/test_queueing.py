"""Waiting for a place: urgency counts, nobody waits for ever, and no outcome depends on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tts_engine import Engine, Outcome
from tts_engine.backends import factory, leaping
from tts_engine.backends.arithmetic import Task
from tts_engine.backends.queueing import PATIENCE, Places
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.types import Completion, Key, Request

TASK = Task(error_rate=0.3)


async def served(priorities: list[int], limit: int = 1) -> list[int]:
    """Numbers of the calls in the order in which they got a place; all but the first few wait."""
    places, order = Places(limit), list[int]()

    async def one(number: int, priority: int) -> None:
        async with places.taken(priority):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number, priority) for number, priority in enumerate(priorities)))
    return order


async def test_the_more_urgent_go_first_and_equals_in_order_of_arrival() -> None:
    assert await served([0, 3, 1, 2, 1]) == [0, 2, 4, 3, 1]
    assert await served([0] * 6, limit=2) == list(range(6))


async def test_whoever_waits_is_overtaken_by_a_bounded_number() -> None:
    order = await served([0, 2, *[0] * (4 * PATIENCE)])
    assert 2 * PATIENCE <= order.index(1) <= 2 * PATIENCE + 2


async def test_a_cancelled_call_gives_its_place_on() -> None:
    places = Places(1)
    begun = asyncio.Event()

    async def hold() -> None:
        async with places.taken(0):
            begun.set()
            await asyncio.sleep(3600)

    first = asyncio.create_task(hold())
    await begun.wait()
    second, third = asyncio.create_task(hold()), asyncio.create_task(hold())
    await asyncio.sleep(0)
    begun.clear()
    first.cancel()
    second.cancel()  # it may just have been given the place
    await asyncio.wait_for(begun.wait(), 5)
    third.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    async with asyncio.timeout(5), places.taken(0):
        pass


class Turned(SimulatedBackend):
    """A model for which what is least urgent is most urgent."""

    async def complete(self, request: Request) -> Completion:
        return await super().complete(replace(request, priority=-request.priority))


@pytest.mark.parametrize("strategy", ["beam", "best-of-n"])
def test_priorities_change_who_ends_first_and_nothing_else(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [TASK.problem(Key(3, (i,)), steps=3) for i in range(6)]

    async def search() -> list[Outcome]:
        model = {"backend": "simulated"}
        settings = {
            "policy": {**model, "model": "policy"},
            "verifier": {**model, "model": "judge", "name": "prm", "samples": 1},
            "run": {"concurrency": len(problems)},
            "strategy": {"name": strategy, "n": 6},
        }
        async with Engine.from_config(settings) as engine:
            return [outcome async for outcome in engine.run(problems)]

    found = []
    for kind in (SimulatedBackend, Turned):
        served = {**factory.BACKENDS, "simulated": lambda name, kind=kind: kind(name, task=TASK, slots=2, clock="real")}
        monkeypatch.setattr(factory, "BACKENDS", served)
        found.append(leaping.run(search())[0])
    assert found[0][0].problem == problems[0]
    assert found[1][0].problem == problems[-1]
    by_id = [sorted(outcomes, key=lambda outcome: outcome.problem.id) for outcomes in found]
    assert by_id[0] == by_id[1]
