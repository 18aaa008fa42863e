"""Seconds fitted on measurements: parameters that were put in come out, and a backend's own clock is matched."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tts_engine.backends.arithmetic import Task
from tts_engine.backends.simulated import SimulatedBackend
from tts_engine.compute.timing import SecondsModel, TimedCall, beside, fit_seconds
from tts_engine.errors import DataError
from tts_engine.formats.policy import solve_prompt
from tts_engine.types import Key, Request, Role, Sampling


def test_calls_beside_each_other_by_hand() -> None:
    times = [(0.0, 4.0), (1.0, 3.0), (2.0, 6.0), (8.0, 9.0)]
    calls = [TimedCall(start=start, end=end, prompt=1, completion=1) for start, end in times]
    assert beside(calls) == pytest.approx([1.0, 1.5, 0.75, 0.0])


def test_parameters_come_out_again() -> None:
    truth, random = SecondsModel(overhead=0.02, prompt=1e-4, token=0.01, crowd=5e-4), np.random.default_rng(0)
    calls: list[TimedCall] = []
    for wave, size in enumerate((1, 2, 8, 32, 64)):
        for _ in range(40):
            prompt, completion = int(random.integers(10, 500)), int(random.integers(1, 100))
            took = truth.seconds(prompt, completion, size - 1)
            calls += [TimedCall(start=0, end=took, prompt=prompt, completion=completion)] * size
        shifted = [TimedCall(start=1e4 * wave + 20.0 * (i // size), end=1e4 * wave + 20.0 * (i // size) + c.end,
                             prompt=c.prompt, completion=c.completion)
                   for i, c in enumerate(calls[-40 * size:])]  # fmt: skip
        calls[-40 * size :] = shifted
    found = fit_seconds(calls)
    assert found.seconds(200, 50, 31) == pytest.approx(truth.seconds(200, 50, 31), rel=0.01)
    assert (found.token, found.crowd) == pytest.approx((truth.token, truth.crowd), rel=0.02)


async def test_a_backend_is_matched() -> None:
    """The simulated server: 10 ms a call, 10,000 prompt tokens and 100 generated ones a second, whoever runs beside."""
    calls = []
    async with SimulatedBackend("m") as backend:
        for i in range(40):
            prompt = solve_prompt(Task().problem(Key(i), steps=1 + i % 9).prompt)
            sampling = Sampling(max_tokens=1 + 7 * (i % 13))
            request = Request(role=Role.GENERATE, model="m", prompt=prompt, sampling=sampling, key=Key(i))
            usage = (await asyncio.gather(backend.complete(request)))[0].usage
            calls.append(TimedCall(start=0.0, end=usage.seconds, prompt=usage.prompt, completion=usage.completion))
    found = fit_seconds([TimedCall(start=100.0 * i, end=100.0 * i + c.end, prompt=c.prompt, completion=c.completion)
                         for i, c in enumerate(calls)])  # fmt: skip
    assert (found.overhead, found.prompt, found.token) == pytest.approx((0.01, 1e-4, 0.01), rel=1e-3)


def test_nothing_is_negative_and_too_little_is_refused() -> None:
    shrinking = [TimedCall(start=10.0 * i, end=10.0 * i + 5 - i, prompt=i, completion=0) for i in range(5)]
    found = fit_seconds(shrinking)
    assert min(found.overhead, found.prompt, found.token, found.crowd) >= 0
    with pytest.raises(DataError, match="too few"):
        fit_seconds(shrinking[:3])
