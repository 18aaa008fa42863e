"""A clock that leaps: order and durations as on a real one, at once."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tts_engine.backends import leaping
from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.formats.policy import solve_prompt
from tts_engine.types import Key, Request, Role, Sampling


async def calls(n: int, **options: float) -> list[float]:
    """Seconds of `n` calls at once of a model of 0.1 s a token, one token each."""
    prompt = solve_prompt(Task().problem(Key(0)).prompt)
    sampling = Sampling(max_tokens=1)
    async with SimulatedBackend(
        "m", clock="real", overhead=0.0, prefill_rate=1e9, decode_rate=10.0, **options
    ) as model:  # type: ignore[arg-type]
        requests = [
            Request(role=Role.GENERATE, model="m", prompt=prompt, sampling=sampling, key=Key(i)) for i in range(n)
        ]
        return [done.usage.seconds for done in await asyncio.gather(*map(model.complete, requests))]


def test_sleepers_wake_in_order_and_nobody_waits() -> None:
    woken: list[int] = []

    async def sleep(hours: int) -> None:
        await asyncio.sleep(3600.0 * hours)
        woken.append(hours)

    async def work() -> str:
        await asyncio.gather(*map(sleep, (3, 1, 2)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(6)
        return "done"

    assert leaping.run(work()) == ("done", 3 * 3600.0 + 5)
    assert woken == [1, 2, 3]


@pytest.mark.parametrize(("slots", "seconds"), [(100, 0.1), (4, 0.3), (1, 1.2)])
def test_the_makespan_of_a_server_with_slots(slots: int, seconds: float) -> None:
    taken, makespan = leaping.run(calls(12, slots=slots))
    assert makespan == pytest.approx(seconds, rel=1e-4)
    assert max(taken) == pytest.approx(seconds, rel=1e-4)


def test_a_tail_keeps_the_mean_and_spreads_the_logarithm() -> None:
    taken, _ = leaping.run(calls(3000, slots=3000, tail=0.6))
    assert statistics.mean(taken) == pytest.approx(0.1, rel=0.05)
    ordered = sorted(taken)
    assert ordered[2523] / ordered[1500] == pytest.approx(1.822, rel=0.1)  # one standard deviation above the median
