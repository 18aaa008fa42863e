"""Fair queueing: shares follow weights, nobody starves, the gate keeps its limit through cancellations."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tts_engine.backends.queueing import PATIENCE
from tts_engine.compute.scheduler import LEAST, FairQueue, Gate


@pytest.mark.parametrize("weight", [1.0, 3.0, 9.0])
def test_shares_follow_the_weights(weight: float) -> None:
    queue = FairQueue[str]()
    for _ in range(1000):
        queue.push("generate", "generate", worth=1.0)
        queue.push("verify", "verify", worth=weight)
    served = Counter(queue.pop() for _ in range(400))
    assert served["verify"] / 400 == pytest.approx(weight / (1 + weight), abs=0.01)


def test_no_role_starves_and_an_idle_one_saves_nothing_up() -> None:
    queue = FairQueue[str]()
    for _ in range(2000):
        queue.push("dear", "dear", worth=1e6)
    queue.push("cheap", "cheap", worth=1e-6)
    first = [queue.pop() for _ in range(2 + round(1 / LEAST))]
    assert "cheap" in first
    for _ in range(100):
        queue.pop()
    for _ in range(50):  # it was away for long: no arrears are paid to it
        queue.push("cheap", "cheap", worth=1e-6)
    assert Counter(queue.pop() for _ in range(100))["cheap"] <= 100 * LEAST + 2


def test_priorities_are_bounded_by_patience() -> None:
    queue = FairQueue[str]()
    queue.push("verify", "late", priority=1)
    for i in range(3 * PATIENCE):
        queue.push("verify", f"urgent{i}", priority=0)
    order = [queue.pop() for _ in range(3 * PATIENCE + 1)]
    assert order.index("late") in (PATIENCE - 1, PATIENCE)
    with pytest.raises(IndexError):
        queue.pop()


async def test_the_gate_keeps_its_limit_through_cancellations() -> None:
    gate, draw = Gate(3), random.Random(0)
    inside = most = done = 0

    async def call(kind: str) -> None:
        nonlocal inside, most, done
        async with gate.admitted(kind):
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0.001 * draw.random())
            finally:
                inside -= 1
        done += 1

    tasks = [asyncio.create_task(call(draw.choice("gv"))) for _ in range(200)]
    for _ in range(30):
        await asyncio.sleep(0.0005)
        draw.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert inside == gate.waiting == 0
    assert done >= 170
    async with gate.admitted("g"), gate.admitted("g"), gate.admitted("v"):
        assert gate.waiting == 0
